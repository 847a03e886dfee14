import com.example.waypost.v1.AnswerContext;
import com.example.waypost.v1.CachedAnswer;
import com.example.waypost.v1.DecideRequest;
import com.example.waypost.v1.DecideResponse;
import com.example.waypost.v1.Outcome;
import com.example.waypost.v1.Plan;
import com.example.waypost.v1.ReportRequest;
import com.example.waypost.v1.ReportResponse;
import com.example.waypost.v1.RouterGrpc;
import com.example.waypost.v1.Step;
import com.example.waypost.v1.Usage;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.RetryInfo;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.netty.channel.epoll.Epoll;
import io.netty.channel.epoll.EpollDomainSocketChannel;
import io.netty.channel.epoll.EpollEventLoopGroup;
import io.netty.channel.unix.DomainSocketAddress;
import io.netty.util.concurrent.DefaultThreadFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/**
 * A complete caller of Waypost: decide, call a model, report; then again, to see the cached answer.
 *
 * <pre>
 *     build/caller 127.0.0.1:50051 "What is a waypost?"
 *     build/caller unix:/run/waypost.sock "What is a waypost?"
 * </pre>
 *
 * Nothing but Waypost has to run: the model is simulated. Each step prints one JSON line.
 */
public final class Caller {
  private static final String DEFAULT_MODEL = "my-default-model"; // for when Waypost can't be asked

  /** The longest to wait for Waypost; a busy service would choose far less. */
  private static final Duration DEADLINE = Duration.ofSeconds(2);

  private static final Duration LONGEST_BACKOFF = Duration.ofSeconds(1);
  private static final String SYSTEM_PROMPT = "You are a helpful assistant.";

  /** What a model said. */
  record Answer(String text, String finishReason, int inputTokens, int outputTokens) {}

  /** A model, or the way to it, failed. */
  static final class ModelException extends Exception {
    private static final long serialVersionUID = 1;

    ModelException(String message) {
      super(message);
    }
  }

  /** Calls a model. */
  interface Model {
    Answer call(String model, String prompt) throws ModelException;
  }

  private final RouterGrpc.RouterBlockingStub router;
  private final Model model;
  private final String scope;

  Caller(RouterGrpc.RouterBlockingStub router, Model model, String scope) {
    this.router = router;
    this.model = model;
    this.scope = scope;
  }

  /** Stands in for a model, so that this example runs with nothing else. */
  static Answer simulatedModel(String model, String prompt) {
    String text = "This is what " + model + " would say to: " + prompt;
    return new Answer(text, "stop", prompt.split("\\s+").length, text.split("\\s+").length);
  }

  /** Makes the first call fail, to show how the plan's next step takes over. */
  static Model failingOnce(Model model) {
    boolean[] failed = {false};
    return (name, prompt) -> {
      if (!failed[0]) {
        failed[0] = true;
        throw new ModelException("simulated failure");
      }
      return model.call(name, prompt);
    };
  }

  /** Answers the prompt: from the cache, from the plan's models, or from the default model. */
  String answer(String prompt) throws ModelException, InterruptedException {
    DecideRequest request =
        DecideRequest.newBuilder()
            .setScope(scope)
            .setPrompt(prompt)
            // Everything else the answer depends on: callers who differ in it never share answers.
            .setContext(
                AnswerContext.newBuilder()
                    .setSystemPrompt(SYSTEM_PROMPT)
                    .setSampling("temperature=0"))
            .build();
    DecideResponse decision;
    try {
      decision = decide(request);
    } catch (StatusRuntimeException e) {
      // Waypost only advises: whatever is wrong with it, this program keeps answering.
      show("decide", "outcome", "failed", "code", e.getStatus().getCode().name());
      return answerWithoutWaypost(prompt);
    }
    if (decision.hasAnswer()) {
      CachedAnswer cached = decision.getAnswer();
      show(
          "decide",
          "decision_id", decision.getDecisionId(),
          "outcome", "answer",
          "match", cached.getMatch().name());
      show("answer", "source", "cache", "model", cached.getModel(), "content", cached.getContent());
      return cached.getContent(); // nothing to report, unless someone finds out that it was wrong
    }
    return follow(decision, prompt);
  }

  /** Calls the plan's models in order until one answers. */
  private String follow(DecideResponse decision, String prompt) throws ModelException {
    Plan plan = decision.getPlan();
    show(
        "decide",
        "decision_id", decision.getDecisionId(),
        "outcome", "plan",
        "models", plan.getStepsList().stream().map(Step::getModel).collect(Collectors.toList()),
        "reason", plan.getReason().name(),
        "infeasible", plan.getInfeasibleList());
    for (Step step : plan.getStepsList()) {
      ReportRequest.Builder report =
          ReportRequest.newBuilder()
              .setDecisionId(decision.getDecisionId())
              .setModel(step.getModel());
      long started = System.nanoTime();
      Answer answer;
      try {
        answer = model.call(step.getModel(), prompt);
      } catch (ModelException e) {
        // Reported too: it is how Waypost learns that a model is down. The fill token is kept back
        // for the step that succeeds.
        show("call", "model", step.getModel(), "ok", false, "error", e.getMessage());
        report(report.setOutcome(Outcome.OUTCOME_ERROR).setLatency(since(started)).build());
        continue;
      }
      report
          .setOutcome(Outcome.OUTCOME_OK)
          .setLatency(since(started))
          .setFillToken(plan.getFillToken()) // with it, the answer is stored
          .setAnswer(answer.text())
          .setFinishReason(answer.finishReason()) // an answer that was cut off is not stored
          .setUsage(
              Usage.newBuilder()
                  .setInputTokens(answer.inputTokens())
                  .setOutputTokens(answer.outputTokens()));
      show("call", "model", step.getModel(), "ok", true);
      // A server would hand out its answer first and report afterwards: nobody waits for it.
      report(report.build());
      show("answer", "source", "model", "model", step.getModel(), "content", answer.text());
      return answer.text();
    }
    return answerWithoutWaypost(prompt); // no step, or none that worked
  }

  /** Asks once, and once more where Waypost is busy and says when to come back. */
  private DecideResponse decide(DecideRequest request) throws InterruptedException {
    try {
      return router().decide(request);
    } catch (StatusRuntimeException e) {
      Duration delay = retryDelay(e).orElseThrow(() -> e);
      if (delay.compareTo(LONGEST_BACKOFF) > 0) {
        throw e;
      }
      double seconds = delay.toNanos() / 1e9;
      show("backoff", "code", e.getStatus().getCode().name(), "seconds", seconds);
      TimeUnit.NANOSECONDS.sleep(delay.toNanos());
      return router().decide(request);
    }
  }

  /** Says what happened. A report that fails costs a cache entry, never an answer. */
  private void report(ReportRequest request) {
    String outcome = request.getOutcome().name();
    try {
      ReportResponse response = router().report(request);
      show(
          "report",
          "model", request.getModel(),
          "outcome", outcome,
          "stored", response.getStored(),
          "entry_id", response.getEntryId(),
          "not_stored_because", response.getNotStoredBecause());
    } catch (StatusRuntimeException e) {
      String code = e.getStatus().getCode().name();
      show("report", "model", request.getModel(), "outcome", outcome, "code", code);
    }
  }

  /** Does what this program did before there was a Waypost. */
  private String answerWithoutWaypost(String prompt) throws ModelException {
    String text = model.call(DEFAULT_MODEL, prompt).text();
    show("answer", "source", "default_model", "model", DEFAULT_MODEL, "content", text);
    return text;
  }

  /** The stub with a deadline, which counts from now: a stub is made for each call. */
  private RouterGrpc.RouterBlockingStub router() {
    return router.withDeadlineAfter(DEADLINE.toNanos(), TimeUnit.NANOSECONDS);
  }

  /** What RetryInfo says, where the error is RESOURCE_EXHAUSTED and carries it. */
  private static Optional<Duration> retryDelay(StatusRuntimeException error) {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    if (error.getStatus().getCode() != Status.Code.RESOURCE_EXHAUSTED || status == null) {
      return Optional.empty();
    }
    for (Any detail : status.getDetailsList()) {
      if (detail.is(RetryInfo.class)) {
        try {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          return Optional.of(Duration.ofSeconds(delay.getSeconds(), delay.getNanos()));
        } catch (InvalidProtocolBufferException e) {
          return Optional.empty(); // unreadable advice is no advice
        }
      }
    }
    return Optional.empty();
  }

  /** The time since {@code started}, as the contract wants it. */
  private static com.google.protobuf.Duration since(long started) {
    Duration elapsed = Duration.ofNanos(System.nanoTime() - started);
    return com.google.protobuf.Duration.newBuilder()
        .setSeconds(elapsed.getSeconds())
        .setNanos(elapsed.getNano())
        .build();
  }

  /** Connects to host:port or unix:/path. One channel per process, kept open. */
  private static ManagedChannel connect(String address) {
    if (!address.startsWith("unix:")) {
      return NettyChannelBuilder.forTarget(address).usePlaintext().build();
    }
    // Java's gRPC speaks to unix sockets through netty's native epoll library.
    if (!Epoll.isAvailable()) {
      System.err.println(
          "unix sockets need netty's native epoll library, which is not here: use host:port");
      System.exit(2);
    }
    return NettyChannelBuilder.forAddress(new DomainSocketAddress(address.substring(5)))
        .channelType(EpollDomainSocketChannel.class)
        // An event loop of one's own is not closed with the channel: its thread must not keep us alive.
        .eventLoopGroup(new EpollEventLoopGroup(1, new DefaultThreadFactory("waypost", true)))
        .overrideAuthority("localhost")
        .usePlaintext()
        .build();
  }

  /** Prints one step as a JSON line. */
  private static void show(String step, Object... fields) {
    Map<String, Object> line = new LinkedHashMap<>();
    line.put("step", step);
    for (int i = 0; i < fields.length; i += 2) {
      line.put((String) fields[i], fields[i + 1]);
    }
    System.out.println(json(line));
  }

  /** As much of JSON as the lines above need, so that the example needs no library for it. */
  private static String json(Object value) {
    if (value instanceof Map<?, ?> map) {
      return map.entrySet().stream()
          .map(entry -> json(entry.getKey()) + ": " + json(entry.getValue()))
          .collect(Collectors.joining(", ", "{", "}"));
    }
    if (value instanceof Iterable<?> items) {
      List<String> values = new ArrayList<>();
      items.forEach(item -> values.add(json(item)));
      return "[" + String.join(", ", values) + "]";
    }
    if (!(value instanceof String text)) {
      return String.valueOf(value);
    }
    StringBuilder quoted = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      if (c == '"' || c == '\\') {
        quoted.append('\\').append(c);
      } else if (c < ' ' || c > '~') {
        quoted.append(String.format("\\u%04x", (int) c));
      } else {
        quoted.append(c);
      }
    }
    return quoted.append('"').toString();
  }

  /** Answers one prompt twice: first by a model, then from the cache. */
  public static void main(String[] arguments) throws InterruptedException {
    String scope = "examples";
    boolean failFirst = false; // let the first model call fail
    List<String> positional = new ArrayList<>();
    for (int i = 0; i < arguments.length; i++) {
      switch (arguments[i]) {
        case "--scope" -> scope = arguments[++i];
        case "--fail-first" -> failFirst = true;
        default -> positional.add(arguments[i]);
      }
    }
    if (positional.size() != 2) {
      System.err.println("usage: caller [--scope SCOPE] [--fail-first] ADDRESS PROMPT");
      System.exit(2);
    }
    Model model = failFirst ? failingOnce(Caller::simulatedModel) : Caller::simulatedModel;
    ManagedChannel channel = connect(positional.get(0));
    try {
      Caller caller = new Caller(RouterGrpc.newBlockingStub(channel), model, scope);
      caller.answer(positional.get(1));
      caller.answer(positional.get(1));
    } catch (ModelException e) {
      System.err.println("no model answered: " + e.getMessage());
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }
}
