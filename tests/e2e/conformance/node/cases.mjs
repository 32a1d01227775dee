// What the Vercel AI SDK does with the gateway. The model behind it obeys: a prompt is JSON that says what it is to do
// (tests/fakes/obedient.py).

import assert from "node:assert/strict";

export const cases = [];

const LOCAL = "local/smollm2-135m:free";
const KINDS = ["openai-compatible", "openai.chat", "openai.responses"];

const told = (...steps) => JSON.stringify(steps);

function test(method, name, run) {
  cases.push({ method, name, run });
}

/** Once for each kind of model that the two providers make. */
function testEach(method, name, run) {
  for (const kind of KINDS) test(method, `${name}: ${kind}`, (context) => run({ ...context, kind, model: context.models[kind] }));
}

const weather = ({ ai, z }, asked = []) =>
  ai.tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      asked.push(city);
      return { city, sky: "rain" };
    },
  });

// Text.

test("generateText", "a text of the embedded model", async ({ ai, compatible }) => {
  const said = await ai.generateText({ model: compatible(LOCAL), prompt: "Say hello.", maxOutputTokens: 8, temperature: 0 });
  assert.ok(said.text);
  assert.ok(said.usage.inputTokens > 0);
  assert.ok(said.usage.outputTokens > 0);
});

testEach("generateText", "text, usage, reason and headers", async ({ ai, model }) => {
  const said = await ai.generateText({ model: model(), prompt: told({ say: "Hello there!" }) });
  assert.equal(said.text, "Hello there!");
  assert.equal(said.finishReason, "stop");
  assert.deepEqual([said.usage.inputTokens, said.usage.outputTokens, said.usage.totalTokens], [9, 3, 12]);
  assert.match(said.response.headers["x-generation-id"], /^gen_/);
});

testEach("generateText", "instructions and what was said before", async ({ ai, model }) => {
  const messages = [
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Hello." },
    { role: "user", content: told({ echo: ["messages"] }) },
  ];
  const said = await ai.generateText({ model: model(), instructions: "Be brief.", messages });
  const roles = JSON.parse(said.text).messages.map(({ role }) => role);
  assert.deepEqual(roles.slice(1), ["user", "assistant", "user"]);
  assert.ok(["system", "developer"].includes(roles[0]));
});

testEach("generateText", "a picture reaches the provider", async ({ ai, model }) => {
  const content = [
    { type: "text", text: told({ echo: ["messages"] }) },
    { type: "image", image: "data:image/png;base64,iVBORw0KGgo=" },
  ];
  const said = await ai.generateText({ model: model(), messages: [{ role: "user", content }] });
  assert.equal(JSON.parse(said.text).messages[0].content[1].image_url.url, "data:image/png;base64,iVBORw0KGgo=");
});

testEach("generateText", "the limit of its output", async ({ ai, model }) => {
  const said = await ai.generateText({ model: model(), prompt: told({ say: "One, two", finish: "length" }), maxOutputTokens: 5 });
  assert.equal(said.finishReason, "length");
  assert.equal(said.text, "One, two");
});

testEach("generateText", "one tool, and what it answered", async (context) => {
  const asked = [];
  const said = await context.ai.generateText({
    model: context.model(),
    prompt: told({ calls: [["weather", { city: "Oslo" }]] }, { say: "It rains." }),
    tools: { weather: weather(context, asked) },
    stopWhen: context.ai.stepCountIs(3),
  });
  assert.deepEqual(asked, ["Oslo"]);
  assert.equal(said.text, "It rains.");
  assert.deepEqual(said.steps.map((step) => step.finishReason), ["tool-calls", "stop"]);
  assert.equal(said.totalUsage?.totalTokens ?? said.usage.totalTokens, 24);
});

testEach("generateText", "two tools at once, then a third, in three steps", async (context) => {
  const asked = [];
  const said = await context.ai.generateText({
    model: context.model(),
    prompt: told(
      { calls: [["weather", { city: "Oslo" }], ["weather", { city: "Rome" }]] },
      { calls: [["weather", { city: "Lima" }]] },
      { say: "All wet." },
    ),
    tools: { weather: weather(context, asked) },
    stopWhen: context.ai.stepCountIs(5),
  });
  assert.deepEqual(asked, ["Oslo", "Rome", "Lima"]);
  assert.deepEqual(said.steps.map((step) => step.toolResults.length), [2, 1, 0]);
  assert.equal(said.text, "All wet.");
});

testEach("generateText", "which tool is to be called", async (context) => {
  const said = await context.ai.generateText({
    model: context.model(),
    prompt: told({
      expect: { tool_choice: { type: "function", function: { name: "weather" } } },
      calls: [["weather", { city: "Oslo" }]],
    }),
    tools: { weather: weather(context) },
    toolChoice: { type: "tool", toolName: "weather" },
  });
  assert.equal(said.toolCalls[0].toolName, "weather");
});

testEach("generateText", "an object as its output", async ({ ai, z, model }) => {
  const said = await ai.generateText({
    model: model(),
    prompt: told({ say: '{"name": "teal"}' }),
    output: ai.Output.object({ schema: z.object({ name: z.string() }) }),
  });
  assert.deepEqual(said.output, { name: "teal" });
});

testEach("generateText", "a limit of rate is waited for", async ({ ai, model, kind }) => {
  const said = await ai.generateText({ model: model("acme:acme/pair-62:free"), prompt: told({ fail: 429, times: 1, say: `At last, ${kind}.` }) });
  assert.equal(said.text, `At last, ${kind}.`);
});

testEach("generateText", "left when its caller gives up", async ({ ai, model }) => {
  const abortSignal = AbortSignal.timeout(200);
  await assert.rejects(
    ai.generateText({ model: model(), prompt: told({ hang: true }), abortSignal }),
    (error) => error.name === "TimeoutError" || error.name === "AbortError",
  );
});

// Streams.

test("streamText", "a text of the embedded model", async ({ ai, compatible }) => {
  const stream = ai.streamText({ model: compatible(LOCAL), prompt: "Say hello.", maxOutputTokens: 8, temperature: 0 });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.ok(text);
  assert.equal(await stream.text, text);
});

testEach("streamText", "its parts in order, usage once", async ({ ai, model }) => {
  const stream = ai.streamText({ model: model(), prompt: told({ say: "Hello there!" }) });
  const parts = [];
  for await (const part of stream.fullStream) parts.push(part);
  const kinds = parts.map(({ type }) => type);
  assert.deepEqual(
    kinds.filter((kind) => kind.startsWith("text") || kind.startsWith("finish")),
    ["text-start", "text-delta", "text-delta", "text-delta", "text-end", "finish-step", "finish"],
  );
  const { finishReason, totalUsage } = parts.at(-1);
  assert.equal(finishReason, "stop");
  assert.deepEqual([totalUsage.inputTokens, totalUsage.outputTokens, totalUsage.totalTokens], [9, 3, 12]);
});

testEach("streamText", "two tools at once, and what they answered", async (context) => {
  const asked = [];
  const stream = context.ai.streamText({
    model: context.model(),
    prompt: told({ calls: [["weather", { city: "Oslo" }], ["weather", { city: "Rome" }]] }, { say: "It rains." }),
    tools: { weather: weather(context, asked) },
    stopWhen: context.ai.stepCountIs(3),
  });
  const inputs = {};
  for await (const part of stream.fullStream) {
    if (part.type === "tool-input-delta") inputs[part.id] = (inputs[part.id] ?? "") + part.delta;
  }
  assert.deepEqual(Object.values(inputs).map(JSON.parse), [{ city: "Oslo" }, { city: "Rome" }]);
  assert.deepEqual(asked, ["Oslo", "Rome"]);
  assert.equal(await stream.text, "It rains.");
});

testEach("streamText", "an error in its middle", async ({ ai, model }) => {
  const errors = [];
  const stream = ai.streamText({
    model: model(),
    prompt: told({ break: "Hel" }),
    onError: ({ error }) => errors.push(error),
    maxRetries: 0,
  });
  const parts = [];
  for await (const part of stream.fullStream) parts.push(part.type);
  assert.ok(parts.includes("text-delta"));
  assert.ok(parts.includes("error"));
  assert.match(describe(errors[0]), /before the output was complete/);
});

testEach("streamText", "left when its caller gives up", async ({ ai, model }) => {
  const giveUp = new AbortController();
  const stream = ai.streamText({ model: model(), prompt: told({ slow: 500 }), abortSignal: giveUp.signal });
  const parts = [];
  for await (const part of stream.fullStream) {
    parts.push(part.type);
    if (part.type === "text-delta") giveUp.abort();
  }
  assert.equal(parts.at(-1), "abort");
});

// Objects.

test("generateObject", "an object of the embedded model", async ({ ai, z, compatible }) => {
  const { object } = await ai.generateObject({
    model: compatible(LOCAL),
    schema: z.object({ name: z.enum(["red", "blue"]) }),
    prompt: "Name a colour as JSON.",
    maxOutputTokens: 32,
    temperature: 0,
  });
  assert.ok(["red", "blue"].includes(object.name));
});

testEach("generateObject", "its schema reaches the provider", async ({ ai, z, model }) => {
  const schema = z.object({ response_format: z.any() });
  const { object } = await ai.generateObject({ model: model(), schema, schemaName: "echo", prompt: told({ echo: ["response_format"] }) });
  assert.equal(object.response_format.type, "json_schema");
  assert.equal(object.response_format.json_schema.name, "echo");
  assert.ok(object.response_format.json_schema.schema.properties.response_format);
});

testEach("generateObject", "a list, and one of several", async ({ ai, z, model }) => {
  const prompt = told({ say: '{"elements": [{"name": "teal"}, {"name": "red"}]}' });
  const list = await ai.generateObject({ model: model(), output: "array", schema: z.object({ name: z.string() }), prompt });
  assert.deepEqual(list.object, [{ name: "teal" }, { name: "red" }]);
  const one = await ai.generateObject({ model: model(), output: "enum", enum: ["a", "b"], prompt: told({ say: '{"result": "b"}' }) });
  assert.equal(one.object, "b");
});

testEach("generateObject", "what is no such object", async ({ ai, z, model }) => {
  await assert.rejects(
    ai.generateObject({ model: model(), schema: z.object({ name: z.string() }), prompt: told({ say: "no" }) }),
    (error) => ai.NoObjectGeneratedError.isInstance(error),
  );
});

testEach("streamObject", "an object piece by piece", async ({ ai, z, model }) => {
  const stream = ai.streamObject({ model: model(), schema: z.object({ name: z.string() }), prompt: told({ say: '{"name": "teal"}' }) });
  const partial = [];
  for await (const one of stream.partialObjectStream) partial.push(one);
  assert.deepEqual(await stream.object, { name: "teal" });
  assert.deepEqual(partial.at(-1), { name: "teal" });
});

// Embeddings.

const EMBEDDINGS = "local/smollm2-135m-embed:free";

for (const kind of ["compatible", "openai"]) {
  const model = (context) => context[kind].embeddingModel(EMBEDDINGS);

  test("embed", `a text: ${kind}`, async (context) => {
    const made = await context.ai.embed({ model: model(context), value: "One small step." });
    assert.equal(made.embedding.length, 576);
    assert.ok(made.usage.tokens > 0);
  });

  test("embedMany", `several, in their order: ${kind}`, async (context) => {
    const values = ["one", "two", "three"];
    const { embeddings } = await context.ai.embedMany({ model: model(context), values });
    const { embedding } = await context.ai.embed({ model: model(context), value: values[2] });
    assert.equal(embeddings.length, 3);
    assert.ok(context.ai.cosineSimilarity(embeddings[2], embedding) > 0.9999);
  });
}

// Sound.

const SAID = "The weather is very nice today.";
const speech = ({ ai, openai }) =>
  ai.generateSpeech({ model: openai.speech("local/espeak:free"), text: SAID, voice: "alloy", outputFormat: "wav", maxRetries: 0 });

test("generateSpeech", "speech of the embedded model", async (context) => {
  const { audio } = await speech(context);
  assert.equal(new TextDecoder().decode(audio.uint8Array.slice(8, 12)), "WAVE");
});

test("transcribe", "what was said is heard", async (context) => {
  const { audio } = await speech(context);
  const model = context.openai.transcription("local/pocketsphinx:free");
  const heard = await context.ai.transcribe({ model, audio: audio.uint8Array, maxRetries: 0 });
  assert.equal(heard.text, "the weather is very nice today");
});

// Pictures.

for (const kind of ["compatible", "openai"]) {
  test("generateImage", `of the size that was asked for: ${kind}`, async (context) => {
    const model = context[kind].imageModel("local/test-card-image:free");
    const { images } = await context.ai.generateImage({ model, prompt: "A boat.", n: 2, size: "128x64" });
    assert.deepEqual(images.map((one) => one.mediaType), ["image/png", "image/png"]);
    assert.deepEqual([...images[0].uint8Array.slice(16, 24)], [0, 0, 0, 128, 0, 0, 0, 64]);
  });
}

// Errors.

const describe = (error) => [error?.message, error?.responseBody, error?.cause?.message, JSON.stringify(error?.data ?? error)].join(" ");

for (const [name, status, ask] of [
  ["a wrong key", 401, ({ createOpenAI, baseURL }) => createOpenAI({ baseURL, apiKey: "wrong" }).chat("acme/test-1:free")],
  ["an unknown model", 404, ({ models }) => models["openai.chat"]("nobody/nothing")],
  ["no credit", 402, ({ models }) => models["openai.responses"]("acme/test-1")],
]) {
  test("APICallError", name, async (context) => {
    await assert.rejects(context.ai.generateText({ model: ask(context), prompt: "Hi", maxRetries: 0 }), (error) => {
      assert.ok(context.ai.APICallError.isInstance(error));
      assert.equal(error.statusCode, status);
      assert.equal(error.isRetryable, false);
      assert.ok(JSON.parse(error.responseBody).description);
      return true;
    });
  });
}

test("RetryError", "a limit of rate that stays", async ({ ai, models }) => {
  const model = models["openai.chat"]("acme:acme/pair-63:free");
  await assert.rejects(ai.generateText({ model, prompt: told({ fail: 429, times: 9 }), maxRetries: 1 }), (error) => {
    assert.ok(ai.RetryError.isInstance(error));
    assert.equal(error.lastError.statusCode, 429);
    assert.equal(error.lastError.isRetryable, true);
    return true;
  });
});

// Agents.

testEach("ToolLoopAgent", "goes on until it has its answer", async (context) => {
  const asked = [];
  const agent = new context.ai.ToolLoopAgent({ model: context.model(), tools: { weather: weather(context, asked) } });
  const said = await agent.generate({ prompt: told({ calls: [["weather", { city: "Oslo" }]] }, { say: "It rains." }) });
  assert.equal(said.text, "It rains.");
  assert.deepEqual(asked, ["Oslo"]);
});

// What has no route yet, and what nobody has looked at.

const LATER = {
};

for (const [method, ask] of Object.entries(LATER)) {
  test(method, "", async (context) => {
    await assert.rejects(ask(context), (error) => {
      assert.equal(error.statusCode, 404, "there is a route now: write its cases");
      assert.equal(JSON.parse(error.responseBody).reason, "unknown_route");
      return true;
    });
    return { result: "not yet", reason: "no such route" };
  });
}

test("completion", "a model of text alone", async ({ ai, openai }) => {
  await assert.rejects(ai.generateText({ model: openai.completion("x"), prompt: "x", maxRetries: 0 }), { statusCode: 404 });
  return { result: "not offered", reason: "no such route" };
});

const ELSEWHERE = ["generateId", "rerank"];

test("ai", "has no function that nobody has looked at", async ({ ai }) => {
  const known = new Set([...cases.map(({ method }) => method), ...ELSEWHERE]);
  const found = Object.keys(ai).filter((name) => /^(generate|stream|embed|rerank|transcribe)/.test(name));
  assert.deepEqual(found.filter((name) => !known.has(name)), []);
});
