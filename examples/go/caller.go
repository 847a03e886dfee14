// A complete caller of Waypost: decide, call a model, report; then again, to see the cached answer.
//
//	build/caller 127.0.0.1:50051 "What is a waypost?"
//	build/caller unix:///run/waypost.sock "What is a waypost?"
//
// Nothing but Waypost has to run: the model is simulated. Each step prints one JSON line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	waypostv1 "example.com/waypost/v1"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	defaultModel   = "my-default-model" // where requests go when Waypost can't be asked
	deadline       = 2 * time.Second    // the longest to wait for Waypost; a busy service would choose far less
	longestBackoff = time.Second
	systemPrompt   = "You are a helpful assistant."
)

// An answer is what a model said.
type answer struct {
	text         string
	finishReason string
	inputTokens  int64
	outputTokens int64
}

// A callModel returns an error where the model, or the way to it, failed.
type callModel func(ctx context.Context, model, prompt string) (*answer, error)

// simulatedModel stands in for a model, so that this example runs with nothing else.
func simulatedModel(_ context.Context, model, prompt string) (*answer, error) {
	text := fmt.Sprintf("This is what %s would say to: %s", model, prompt)
	tokens := func(words string) int64 { return int64(len(strings.Fields(words))) }
	return &answer{text, "stop", tokens(prompt), tokens(text)}, nil
}

// failingOnce makes the first call fail, to show how the plan's next step takes over.
func failingOnce(call callModel) callModel {
	failed := false
	return func(ctx context.Context, model, prompt string) (*answer, error) {
		if !failed {
			failed = true
			return nil, errors.New("simulated failure")
		}
		return call(ctx, model, prompt)
	}
}

// A caller calls models. It asks Waypost first, and gets by without it.
type caller struct {
	router waypostv1.RouterClient
	call   callModel
	scope  string
}

// answer answers the prompt: from the cache, from the plan's models, or from the default model.
func (c *caller) answer(ctx context.Context, prompt string) (string, error) {
	decision, err := c.decide(ctx, &waypostv1.DecideRequest{
		Scope:  c.scope,
		Prompt: prompt,
		// Everything else the answer depends on: callers who differ in it never share answers.
		Context: &waypostv1.AnswerContext{SystemPrompt: systemPrompt, Sampling: "temperature=0"},
	})
	if err != nil {
		// Waypost only advises: whatever is wrong with it, this program keeps answering.
		show("decide", fields{"outcome": "failed", "code": codeName(err)})
		return c.answerWithoutWaypost(ctx, prompt)
	}
	if cached := decision.GetAnswer(); cached != nil {
		show("decide", fields{
			"decision_id": decision.DecisionId, "outcome": "answer", "match": cached.Match.String(),
		})
		show("answer", fields{"source": "cache", "model": cached.Model, "content": cached.Content})
		return cached.Content, nil // nothing to report, unless someone finds out that it was wrong
	}
	return c.follow(ctx, decision, prompt)
}

// follow calls the plan's models in order until one answers.
func (c *caller) follow(
	ctx context.Context, decision *waypostv1.DecideResponse, prompt string,
) (string, error) {
	plan := decision.GetPlan()
	models := []string{}
	for _, step := range plan.GetSteps() {
		models = append(models, step.Model)
	}
	show("decide", fields{
		"decision_id": decision.DecisionId, "outcome": "plan", "models": models,
		"reason": plan.GetReason().String(), "infeasible": append([]string{}, plan.GetInfeasible()...),
	})
	for _, model := range models {
		started := time.Now()
		answer, err := c.call(ctx, model, prompt)
		report := &waypostv1.ReportRequest{
			DecisionId: decision.DecisionId,
			Model:      model,
			Latency:    durationpb.New(time.Since(started)),
		}
		if err != nil {
			// Reported too: it is how Waypost learns that a model is down. The fill token is kept
			// back for the step that succeeds.
			show("call", fields{"model": model, "ok": false, "error": err.Error()})
			report.Outcome = waypostv1.Outcome_OUTCOME_ERROR
			c.report(ctx, report)
			continue
		}
		show("call", fields{"model": model, "ok": true})
		report.Outcome = waypostv1.Outcome_OUTCOME_OK
		report.FillToken = plan.FillToken // with it, the answer is stored
		report.Answer = answer.text
		report.FinishReason = answer.finishReason // an answer that was cut off is not stored
		report.Usage = &waypostv1.Usage{
			InputTokens: answer.inputTokens, OutputTokens: answer.outputTokens,
		}
		// A server would hand out its answer first and report afterwards: nobody waits for it.
		c.report(ctx, report)
		show("answer", fields{"source": "model", "model": model, "content": answer.text})
		return answer.text, nil
	}
	return c.answerWithoutWaypost(ctx, prompt) // no step, or none that worked
}

// decide asks once, and once more where Waypost is busy and says when to come back.
func (c *caller) decide(
	ctx context.Context, request *waypostv1.DecideRequest,
) (*waypostv1.DecideResponse, error) {
	ask := func() (*waypostv1.DecideResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		return c.router.Decide(ctx, request)
	}
	decision, err := ask()
	delay, ok := retryDelay(err)
	if !ok || delay > longestBackoff {
		return decision, err
	}
	show("backoff", fields{"code": codeName(err), "seconds": delay.Seconds()})
	select {
	case <-time.After(delay):
		return ask()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// report says what happened. A report that fails costs a cache entry, never an answer.
func (c *caller) report(ctx context.Context, request *waypostv1.ReportRequest) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	said := fields{"model": request.Model, "outcome": request.Outcome.String()}
	if response, err := c.router.Report(ctx, request); err != nil {
		said["code"] = codeName(err)
	} else {
		said["stored"] = response.Stored
		said["entry_id"] = response.EntryId
		said["not_stored_because"] = response.NotStoredBecause
	}
	show("report", said)
}

// answerWithoutWaypost does what this program did before there was a Waypost.
func (c *caller) answerWithoutWaypost(ctx context.Context, prompt string) (string, error) {
	answer, err := c.call(ctx, defaultModel, prompt)
	if err != nil {
		return "", err
	}
	show("answer", fields{"source": "default_model", "model": defaultModel, "content": answer.text})
	return answer.text, nil
}

// retryDelay returns what RetryInfo says, where the error is RESOURCE_EXHAUSTED and carries it.
func retryDelay(err error) (time.Duration, bool) {
	if status.Code(err) != codes.ResourceExhausted {
		return 0, false
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			delay := info.GetRetryDelay()
			return time.Duration(delay.GetSeconds())*time.Second + time.Duration(delay.GetNanos()), true
		}
	}
	return 0, false
}

// codeName returns the error's code in the spelling of the gRPC documentation.
func codeName(err error) string {
	return code.Code_name[int32(status.Code(err))]
}

type fields map[string]interface{}

// show prints one step as a JSON line.
func show(step string, f fields) {
	f["step"] = step
	line, err := json.Marshal(f)
	if err != nil {
		panic(err) // nothing above is beyond JSON
	}
	fmt.Println(string(line))
}

func main() {
	scope := flag.String("scope", "examples", "tenant or application")
	failFirst := flag.Bool("fail-first", false, "let the first model call fail")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: caller [flags] ADDRESS PROMPT")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *scope, *failFirst); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run answers one prompt twice: first by a model, then from the cache.
func run(address, prompt, scope string, failFirst bool) error {
	// One connection per process, kept open. It is made in the background, at the first call.
	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer connection.Close()

	c := &caller{waypostv1.NewRouterClient(connection), simulatedModel, scope}
	if failFirst {
		c.call = failingOnce(simulatedModel)
	}
	for i := 0; i < 2; i++ {
		if _, err := c.answer(context.Background(), prompt); err != nil {
			return fmt.Errorf("no model answered: %w", err)
		}
	}
	return nil
}
