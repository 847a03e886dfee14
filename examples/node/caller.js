// A complete caller of Waypost: decide, call a model, report; then again, to see the cached answer.
//
//     node caller.js 127.0.0.1:50051 "What is a waypost?"
//     node caller.js unix:/run/waypost.sock "What is a waypost?"
//
// Nothing but Waypost has to run: the model is simulated. Each step prints one JSON line.
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const DEFAULT_MODEL = 'my-default-model'; // where requests go when Waypost can't be asked
const DEADLINE_MS = 2000; // the longest to wait for Waypost; a busy service would choose far less
const LONGEST_BACKOFF_MS = 1000;
const SYSTEM_PROMPT = 'You are a helpful assistant.';

// The contract is read as it is: no generated code to keep in step.
const folder = (path) => fileURLToPath(new URL(path, import.meta.url));
const messages = protoLoader.loadSync(['waypost/v1/router.proto', 'status_details.proto'], {
  includeDirs: [folder('../../protos'), folder('..')],
  enums: String,
  longs: Number,
  defaults: true, // absent fields read as empty, so that nothing below has to ask
  oneofs: true,
});
const { Router } = grpc.loadPackageDefinition(messages).waypost.v1;

class ModelError extends Error {}

/** Stands in for a model, so that this example runs with nothing else. */
async function simulatedModel(model, prompt) {
  const text = `This is what ${model} would say to: ${prompt}`;
  const tokens = (words) => words.split(/\s+/).length;
  return { text, finishReason: 'stop', inputTokens: tokens(prompt), outputTokens: tokens(text) };
}

/** Makes the first call fail, to show how the plan's next step takes over. */
function failingOnce(callModel) {
  let failed = false;
  return async (model, prompt) => {
    if (!failed) {
      failed = true;
      throw new ModelError('simulated failure');
    }
    return callModel(model, prompt);
  };
}

/** A model caller that asks Waypost first, and gets by without it. */
class Caller {
  constructor(client, callModel, scope) {
    this.callModel = callModel;
    this.scope = scope;
    const unary = (method) => {
      const call = promisify(method.bind(client));
      return (request) => call(request, { deadline: Date.now() + DEADLINE_MS });
    };
    this.rpc = { decide: unary(client.decide), report: unary(client.report) };
  }

  /** Answers the prompt: from the cache, from the plan's models, or from the default model. */
  async answer(prompt) {
    let decision;
    try {
      decision = await this.decide({
        scope: this.scope,
        prompt,
        // Everything else the answer depends on: callers who differ in it never share answers.
        context: { systemPrompt: SYSTEM_PROMPT, sampling: 'temperature=0' },
      });
    } catch (error) {
      // Waypost only advises: whatever is wrong with it, this program keeps answering.
      show('decide', { outcome: 'failed', code: grpc.status[error.code] ?? String(error) });
      return this.answerWithoutWaypost(prompt);
    }
    if (decision.outcome === 'answer') {
      const { content, match, model } = decision.answer;
      show('decide', { decision_id: decision.decisionId, outcome: 'answer', match });
      show('answer', { source: 'cache', model, content });
      return content; // nothing to report, unless someone finds out that it was wrong
    }
    return this.follow(decision, prompt);
  }

  /** Calls the plan's models in order until one answers. */
  async follow({ decisionId, plan }, prompt) {
    show('decide', {
      decision_id: decisionId,
      outcome: 'plan',
      models: plan.steps.map((step) => step.model),
      reason: plan.reason,
      infeasible: plan.infeasible,
    });
    for (const { model } of plan.steps) {
      const started = process.hrtime.bigint();
      let answer;
      try {
        answer = await this.callModel(model, prompt);
      } catch (error) {
        if (!(error instanceof ModelError)) throw error;
        // Reported too: it is how Waypost learns that a model is down. The fill token is kept
        // back for the step that succeeds.
        show('call', { model, ok: false, error: error.message });
        await this.report({ decisionId, model, outcome: 'OUTCOME_ERROR', latency: since(started) });
        continue;
      }
      const latency = since(started);
      show('call', { model, ok: true });
      // A server would hand out its answer first and report afterwards: nobody waits for it.
      await this.report({
        decisionId,
        fillToken: plan.fillToken, // with it, the answer is stored
        model,
        outcome: 'OUTCOME_OK',
        answer: answer.text,
        finishReason: answer.finishReason, // an answer that was cut off is not stored
        usage: { inputTokens: answer.inputTokens, outputTokens: answer.outputTokens },
        latency,
      });
      show('answer', { source: 'model', model, content: answer.text });
      return answer.text;
    }
    return this.answerWithoutWaypost(prompt); // no step, or none that worked
  }

  /** Asks once, and once more where Waypost is busy and says when to come back. */
  async decide(request) {
    try {
      return await this.rpc.decide(request);
    } catch (error) {
      const delay = retryDelayMs(error);
      if (delay === undefined || delay > LONGEST_BACKOFF_MS) throw error;
      show('backoff', { code: grpc.status[error.code], seconds: delay / 1000 });
      await sleep(delay);
      return this.rpc.decide(request);
    }
  }

  /** Says what happened. A report that fails costs a cache entry, never an answer. */
  async report(request) {
    const { model, outcome } = request;
    try {
      const response = await this.rpc.report(request);
      show('report', {
        model,
        outcome,
        stored: response.stored,
        entry_id: response.entryId,
        not_stored_because: response.notStoredBecause,
      });
    } catch (error) {
      show('report', { model, outcome, code: grpc.status[error.code] ?? String(error) });
    }
  }

  /** Does what this program did before there was a Waypost. */
  async answerWithoutWaypost(prompt) {
    const { text } = await this.callModel(DEFAULT_MODEL, prompt);
    show('answer', { source: 'default_model', model: DEFAULT_MODEL, content: text });
    return text;
  }
}

/** What RetryInfo says, in milliseconds, where the error is RESOURCE_EXHAUSTED and carries it. */
function retryDelayMs(error) {
  if (error.code !== grpc.status.RESOURCE_EXHAUSTED) return undefined;
  const [trailer] = error.metadata.get('grpc-status-details-bin');
  if (!trailer) return undefined;
  const { details } = messages['google.rpc.Status'].deserialize(trailer);
  // Any is built into the loader, and keeps the spelling of its fields.
  const detail = details.find((any) => any.type_url.endsWith('/google.rpc.RetryInfo'));
  if (!detail) return undefined;
  const { retryDelay } = messages['google.rpc.RetryInfo'].deserialize(detail.value);
  return (retryDelay?.seconds ?? 0) * 1e3 + (retryDelay?.nanos ?? 0) / 1e6;
}

/** The time since `started`, as the contract wants it. */
function since(started) {
  const elapsed = process.hrtime.bigint() - started;
  return { seconds: Number(elapsed / 1_000_000_000n), nanos: Number(elapsed % 1_000_000_000n) };
}

/** Prints one step as a JSON line. */
function show(step, fields) {
  console.log(JSON.stringify({ step, ...fields }));
}

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    scope: { type: 'string', default: 'examples' },
    'fail-first': { type: 'boolean', default: false }, // let the first model call fail
  },
});
if (positionals.length !== 2) {
  console.error('usage: node caller.js ADDRESS PROMPT [--scope SCOPE] [--fail-first]');
  process.exit(2);
}
const [address, prompt] = positionals;
const callModel = options['fail-first'] ? failingOnce(simulatedModel) : simulatedModel;
// One client per process, kept open. Both host:port and unix:/path are understood.
// Waypost is next door: no http_proxy would find it there.
const client = new Router(address, grpc.credentials.createInsecure(), { 'grpc.enable_http_proxy': 0 });
try {
  const caller = new Caller(client, callModel, options.scope);
  await caller.answer(prompt);
  await caller.answer(prompt);
} catch (error) {
  if (!(error instanceof ModelError)) throw error;
  console.error(`no model answered: ${error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
