// Run a tool loop with OpenAI's SDK as it is, by its own runner, plain and streamed; print what it said at the end.
// Usage: node tools.mjs BASE_URL

import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.argv[2], apiKey: 'any', maxRetries: 0 });
const called = [];

const tool = (name) => ({
  type: 'function',
  function: {
    name,
    description: name,
    parameters: { type: 'object', properties: {} },
    parse: JSON.parse,
    function: async (given) => {
      called.push([name, given]);
      return `${name} of ${given.city}`;
    },
  },
});

for (const stream of [false, true]) {
  const runner = client.chat.completions.runTools({
    model: 'any',
    stream,
    messages: [{ role: 'user', content: 'How warm is Zürich?' }],
    tools: [tool('weather'), tool('time')],
  });
  console.log(JSON.stringify([await runner.finalContent(), called.splice(0)]));
}
