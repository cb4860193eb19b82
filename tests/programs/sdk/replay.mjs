// Ask for every reply given on standard input, plain and streamed, with OpenAI's SDK as it is; print what differs.
// Usage: node replay.mjs BASE_URL < requests.json, where each request is {"messages": […], "expected": ["…"]}.

import OpenAI, { BadRequestError, NotFoundError } from 'openai';
import { readFileSync } from 'node:fs';

const client = new OpenAI({ baseURL: process.argv[2], apiKey: 'any', maxRetries: 0 });
const requests = JSON.parse(readFileSync(0, 'utf8'));
let wrong = 0;

function check(what, right) {
  if (!right) {
    wrong += 1;
    console.log(what);
  }
}

for (const { messages, expected } of requests) {
  const asked = { model: 'gpt-4o', messages, seed: 1 };
  const plain = await client.chat.completions.create(asked);
  const content = plain.choices[0].message.content;
  check(`answer to ${JSON.stringify(messages)}: ${content}`, expected.includes(content));

  const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  let joined = '';
  let usage;
  for await (const chunk of stream) {
    joined += chunk.choices[0]?.delta?.content ?? '';
    usage = chunk.usage;
  }
  check(`stream for ${JSON.stringify(messages)}: ${joined}`, joined === content);
  check(`usage ${JSON.stringify(usage)}`, JSON.stringify(usage) === JSON.stringify(plain.usage));

  // The helper gives null for an empty reply.
  const helper = await client.chat.completions.stream(asked).finalContent();
  check(`helper for ${JSON.stringify(messages)}: ${helper}`, (helper ?? '') === content);
}

async function error(parameters) {
  try {
    await client.chat.completions.create({ model: 'm', messages: [], ...parameters });
  } catch (found) {
    return found;
  }
}

const miss = await error({ messages: [{ role: 'user', content: 'nobody said this' }] });
check(`miss ${miss}`, miss instanceof NotFoundError && miss.param === 'messages[0]' && miss.requestID?.startsWith('req_'));
const bad = await error({ n: 0 });
check(`bad request ${bad}`, bad instanceof BadRequestError && bad.param === 'n');

console.log(`${requests.length} requests, ${wrong} wrong`);
process.exit(wrong ? 1 : 0);
