// What people do with a gateway from JavaScript, by the packages that they have: `openai` and the AI SDK.
// node client.mjs <gateway's URL> <model>
// Prints one JSON object: what each of the tasks below has given, or the error that it ended with.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, jsonSchema, Output, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const [url, model] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0, timeout: 20_000 });
const corolla = createOpenAICompatible({
  name: 'corolla',
  baseURL: `${url}/v1`,
  includeUsage: true,
  supportsStructuredOutputs: true,
});

const messages = [{ role: 'user', content: 'Hi 😀' }];
const chat = { model, messages, temperature: 0, max_tokens: 12 };
const parameters = {
  type: 'object',
  properties: { unit: { enum: ['celsius', 'fahrenheit'] }, exact: { type: 'boolean' } },
  required: ['unit', 'exact'],
  additionalProperties: false,
};
const weather = { type: 'function', function: { name: 'get_weather', description: 'The weather.', parameters } };
const calling = { ...chat, max_tokens: 200, tools: [weather], tool_choice: 'required', parallel_tool_calls: false };
const Choice = z.object({ colour: z.enum(['red', 'green']), shiny: z.boolean() });

async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

const tasks = {
  async models() {
    const found = await collect(openai.models.list());
    return { ids: found.map((each) => each.id), one: (await openai.models.retrieve(model)).id };
  },

  async chat() {
    const answer = await openai.chat.completions.create({ ...chat, n: 2, logprobs: true, top_logprobs: 2 });
    return {
      texts: answer.choices.map((choice) => choice.message.content),
      tokens: answer.choices[0].logprobs.content.length,
      usage: answer.usage.completion_tokens,
      fingerprint: answer.system_fingerprint,
      request: answer._request_id,
    };
  },

  async chat_stream() {
    const stream = openai.chat.completions.stream({ ...chat, stream_options: { include_usage: true } });
    const pieces = [];
    stream.on('content', (piece) => pieces.push(piece));
    const answer = await stream.finalChatCompletion();
    return {
      text: answer.choices[0].message.content,
      joined: pieces.join(''),
      role: answer.choices[0].message.role,
      finish: answer.choices[0].finish_reason,
      usage: answer.usage.completion_tokens,
    };
  },

  async parsed() {
    const response_format = zodResponseFormat(Choice, 'choice');
    const answer = await openai.chat.completions.parse({ ...chat, max_tokens: 200, response_format });
    return answer.choices[0].message.parsed;
  },

  async tools() {
    const answer = await openai.chat.completions.create(calling);
    const [choice] = answer.choices;
    const [call] = choice.message.tool_calls;
    const result = { role: 'tool', tool_call_id: call.id, content: 'It rains.' };
    const next = await openai.chat.completions.create({ ...chat, messages: [...messages, choice.message, result] });
    return {
      name: call.function.name,
      arguments: JSON.parse(call.function.arguments),
      finish: choice.finish_reason,
      next: typeof next.choices[0].message.content,
    };
  },

  async tools_stream() {
    const answer = await openai.chat.completions.stream(calling).finalChatCompletion();
    const [call] = answer.choices[0].message.tool_calls;
    return { name: call.function.name, arguments: JSON.parse(call.function.arguments), id: call.id };
  },

  async completions() {
    const prompt = ['Once upon', 'a time'];
    const answer = await openai.completions.create({ model, prompt, temperature: 0, max_tokens: 8, logprobs: 1 });
    const chunks = await collect(
      await openai.completions.create({ model, prompt, temperature: 0, max_tokens: 8, stream: true }),
    );
    const joined = ['', ''];
    for (const { choices } of chunks) for (const choice of choices) joined[choice.index] += choice.text;
    return {
      texts: answer.choices.map((choice) => choice.text),
      joined,
      tokens: answer.choices[0].logprobs.tokens.length,
    };
  },

  async embeddings() {
    const input = ['a cat', 'a dog'];
    const packed = await openai.embeddings.create({ model, input });
    const numbers = await openai.embeddings.create({ model, input, encoding_format: 'float' });
    const vectors = packed.data.map((each) => Array.from(each.embedding));
    return {
      equal: vectors.every((vector, k) => vector.every((x, i) => x === numbers.data[k].embedding[i])),
      norms: vectors.map((vector) => Math.hypot(...vector)),
      size: vectors[0].length,
    };
  },

  async responses() {
    const asked = { model, input: 'Hi', temperature: 0, max_output_tokens: 16 };
    const answer = await openai.responses.create(asked);
    const next = await openai.responses.create({ ...asked, previous_response_id: answer.id });
    const found = await openai.responses.retrieve(answer.id);
    await openai.responses.delete(answer.id);
    const gone = await openai.responses.retrieve(answer.id).catch((error) => error.status);
    return { text: answer.output_text, next: next.previous_response_id === answer.id, same: found.id === answer.id, gone };
  },

  async responses_stream() {
    const stream = openai.responses.stream({ model, input: 'Hi', temperature: 0, max_output_tokens: 16 });
    const kinds = [];
    let joined = '';
    for await (const event of stream) {
      if (kinds.at(-1) !== event.type) kinds.push(event.type);
      if (event.type === 'response.output_text.delta') joined += event.delta;
    }
    return { kinds, joined, text: (await stream.finalResponse()).output_text };
  },

  async responses_tools() {
    const tools = [{ type: 'function', name: 'get_weather', parameters, strict: true }];
    const asked = { model, input: 'Hi', temperature: 0, max_output_tokens: 200, tools, parallel_tool_calls: false };
    const answer = await openai.responses.create({ ...asked, tool_choice: 'required' });
    const call = answer.output.find((item) => item.type === 'function_call');
    return { name: call.name, arguments: JSON.parse(call.arguments) };
  },

  async errors() {
    const kinds = {};
    for (const [name, change] of Object.entries({ unknown: { model: 'no/such' }, bad: { temperature: 3 } })) {
      const error = await openai.chat.completions.create({ ...chat, ...change }).catch((each) => each);
      kinds[name] = [error.constructor.name, error.status, error.code, error.param, typeof error.requestID];
    }
    return kinds;
  },

  async aborted() {
    const stream = await openai.chat.completions.create({ ...chat, max_tokens: 400, ignore_eos: true, stream: true });
    for await (const _ of stream) break; // leaves the loop, which aborts the request
    const controller = new AbortController();
    const waiting = openai.chat.completions.create(
      { ...chat, max_tokens: 400, ignore_eos: true },
      { signal: controller.signal },
    );
    setTimeout(() => controller.abort(), 50);
    return (await waiting.catch((error) => error)).constructor.name;
  },

  async ai_text() {
    const { text, usage, finishReason } = await generateText({
      model: corolla(model),
      messages,
      temperature: 0,
      maxOutputTokens: 12,
    });
    return { text, tokens: usage.outputTokens, finish: finishReason };
  },

  async ai_stream() {
    const result = streamText({ model: corolla(model), messages, temperature: 0, maxOutputTokens: 12 });
    const joined = (await collect(result.textStream)).join('');
    return { joined, tokens: (await result.usage).outputTokens, finish: await result.finishReason };
  },

  async ai_object() {
    const { output } = await generateText({
      model: corolla(model),
      messages,
      temperature: 0,
      maxOutputTokens: 200,
      output: Output.object({ schema: Choice }),
    });
    return output;
  },

  async ai_tools() {
    const seen = [];
    const get_weather = tool({
      description: 'The weather.',
      inputSchema: jsonSchema(parameters),
      execute: async (input) => seen.push(input),
    });
    const providerOptions = { corolla: { parallel_tool_calls: false } };
    const asked = { model: corolla(model), messages, temperature: 0, maxOutputTokens: 200, providerOptions };
    const options = { ...asked, toolChoice: 'required' };
    const { toolCalls } = await generateText({ ...options, tools: { get_weather } });
    const streamed = streamText({ ...options, tools: { get_weather } });
    return { whole: toolCalls[0].toolName, streamed: (await streamed.toolCalls)[0].toolName, seen };
  },

  async ai_completion() {
    const { text } = await generateText({
      model: corolla.completionModel(model),
      prompt: 'Once upon',
      temperature: 0,
      maxOutputTokens: 8,
    });
    return text.length;
  },

  async ai_embeddings() {
    const { embeddings } = await embedMany({ model: corolla.embeddingModel(model), values: ['a cat', 'a dog'] });
    return embeddings.map((vector) => Math.hypot(...vector));
  },

  async ai_errors() {
    const error = await generateText({ model: corolla('no/such'), messages, maxRetries: 0 }).catch((each) => each);
    return [error.statusCode, error.message];
  },
};

const told = {};
for (const [name, task] of Object.entries(tasks)) {
  try {
    told[name] = await task();
  } catch (error) {
    told[name] = { failed: `${error.constructor.name}: ${error.message}` };
  }
}
process.stdout.write(JSON.stringify(told));
