// The whole API with the stock `openai` package of npm. OPENAI_BASE_URL and OPENAI_API_KEY say where, as for any script
// written for OpenAI. Argument: a JSONL file of twelve rows.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createReadStream, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';
import { VERSION } from 'openai/version';

const client = new OpenAI({ maxRetries: 0, timeout: 120_000 });
const jobs = client.fineTuning.jobs;

async function main(rows) {
  const file = await files(rows);
  await uploads(rows);
  const created = await createJob(file);
  const other = await createJobAsBefore(file);
  assert.deepEqual((await ids(jobs.list({ limit: 1 }))).slice(0, 2), [other.id, created.id]);
  await pauseResumeAndCancel(other);
  const job = await ended(jobs, created.id);
  await whatAJobLeaves(job);
  await chat(job.fine_tuned_model);
  await batches(job.fine_tuned_model);
  await graders();
  await webhooks(file);
  await models(job.fine_tuned_model);
  await errors();
  console.log(`openai-node ${VERSION}: all is well`);
}

async function files(rows) {
  const content = readFileSync(rows);
  const file = await client.files.create({ file: createReadStream(rows), purpose: 'fine-tune' });
  assert.deepEqual([file.filename, file.bytes, file.purpose], ['rows.jsonl', content.length, 'fine-tune']);
  const nameless = await client.files.create({ file: await toFile(content), purpose: 'fine-tune' });
  assert.deepEqual(await client.files.retrieve(file.id), file);
  assert.deepEqual(Buffer.from(await (await client.files.content(file.id)).arrayBuffer()), content);

  const newestFirst = await ids(client.files.list({ purpose: 'fine-tune', limit: 1 })); // page after page
  assert.deepEqual(newestFirst.slice(0, 2), [nameless.id, file.id]);

  assert.equal((await client.files.delete(nameless.id)).deleted, true);
  await refused(client.files.retrieve(nameless.id), OpenAI.NotFoundError, {
    message: `No such File object: ${nameless.id}`,
    param: 'id',
  });
  return file;
}

async function uploads(rows) {
  const content = readFileSync(rows);
  const upload = await client.uploads.create({
    filename: 'parts.jsonl',
    purpose: 'fine-tune',
    bytes: content.length,
    mime_type: 'application/jsonl',
  });
  assert.equal(upload.status, 'pending');
  const halves = [content.subarray(0, 50), content.subarray(50)];
  const parts = await Promise.all(
    halves.map(async (data) => client.uploads.parts.create(upload.id, { data: await toFile(data, 'part') })),
  );
  const done = await client.uploads.complete(upload.id, { part_ids: parts.map((part) => part.id) });
  assert.deepEqual(Buffer.from(await (await client.files.content(done.file.id)).arrayBuffer()), content);
  assert.equal((await client.files.delete(done.file.id)).deleted, true);
}

async function createJob(file) {
  const { data: job, response, request_id } = await jobs
    .create({
      model: 'fettle-tiny',
      training_file: file.id,
      validation_file: file.id,
      method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 2, batch_size: 4 } } },
      suffix: 'node',
      seed: 7,
      metadata: { sdk: VERSION },
    })
    .withResponse();
  assert.ok(request_id);
  assert.equal(response.headers.get('openai-version'), '2020-10-01');
  assert.deepEqual([job.status, job.error, job.fine_tuned_model], ['validating_files', null, null]);
  assert.deepEqual([job.seed, job.metadata], [7, { sdk: VERSION }]);
  return job;
}

async function createJobAsBefore(file) {
  const hyperparameters = { n_epochs: 50, batch_size: 1, learning_rate_multiplier: 'auto' };
  const job = await jobs.create({ model: 'fettle-tiny', training_file: file.id, hyperparameters });
  assert.deepEqual(job.hyperparameters, hyperparameters);
  return job;
}

async function pauseResumeAndCancel(job) {
  await waitFor(() => all(jobs.listEvents(job.id)), (events) => events.some((event) => event.type === 'metrics'));
  const paused = await jobs.pause(job.id);
  assert.deepEqual([paused.status, paused.paused], ['queued', true]);
  assert.equal((await jobs.resume(job.id)).paused, false);
  assert.equal((await jobs.cancel(job.id)).status, 'cancelled');
  await refused(jobs.cancel(job.id), OpenAI.BadRequestError, { type: 'invalid_request_error' });
}

async function ended(resource, id) {
  const final = ['succeeded', 'completed', 'failed', 'expired', 'cancelled'];
  return waitFor(() => resource.retrieve(id), (seen) => final.includes(seen.status));
}

async function waitFor(look, until) {
  for (const deadline = Date.now() + 240_000; ; await sleep(300)) {
    const seen = await look();
    if (until(seen)) return seen;
    assert.ok(Date.now() < deadline, JSON.stringify(seen));
  }
}

async function whatAJobLeaves(job) {
  assert.equal(job.status, 'succeeded', JSON.stringify(job));
  assert.match(job.fine_tuned_model, /^ft:fettle-tiny:/);
  const events = await all(jobs.listEvents(job.id, { limit: 5 }));
  assert.equal(events.at(-1).message, `Created fine-tuning job: ${job.id}`);
  assert.equal(events[0].message, 'The job has successfully completed');
  const checkpoints = await all(jobs.checkpoints.list(job.id, { limit: 1 }));
  assert.deepEqual(checkpoints.map((checkpoint) => checkpoint.step_number), [6, 3]);
  const metrics = await (await client.files.content(job.result_files[0])).text();
  assert.equal(metrics.trimEnd().split('\n').length, 1 + 6);
}

async function chat(model) {
  const question = { model, messages: [{ role: 'user', content: 'Hello?' }], max_tokens: 8, temperature: 0 };
  const answer = await client.chat.completions.create(question);
  assert.equal(answer.model, model);
  let streamed = '';
  for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
    streamed += chunk.choices[0]?.delta.content ?? '';
  }
  assert.equal(streamed, answer.choices[0].message.content);
}

async function batches(model) {
  const body = { model, messages: [{ role: 'user', content: 'Hello?' }], max_tokens: 4 };
  const line = JSON.stringify({ custom_id: 'one', method: 'POST', url: '/v1/chat/completions', body });
  const file = await client.files.create({ file: await toFile(Buffer.from(line), 'one.jsonl'), purpose: 'batch' });
  const created = await client.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  });
  const batch = await ended(client.batches, created.id);
  assert.deepEqual(batch.request_counts, { total: 1, completed: 1, failed: 0 });
  const answer = JSON.parse(await (await client.files.content(batch.output_file_id)).text());
  assert.deepEqual([answer.custom_id, answer.response.status_code], ['one', 200]);
  assert.equal((await ids(client.batches.list({ limit: 1 })))[0], batch.id);
}

async function graders() {
  const grader = {
    type: 'string_check',
    name: 'same',
    operation: 'eq',
    input: '{{sample.output_text}}',
    reference: '{{item.answer}}',
  };
  const run = await client.fineTuning.alpha.graders.run({ grader, model_sample: 'four', item: { answer: 'four' } });
  assert.equal(run.reward, 1);
  assert.equal((await client.fineTuning.alpha.graders.validate({ grader })).grader.name, 'same');
}

async function webhooks(file) {
  const receiver = createServer().listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  const endpoint = await client.webhooks.create({
    name: 'node',
    url: `http://127.0.0.1:${receiver.address().port}/hook`,
    event_types: ['fine_tuning.job.cancelled'],
  });
  const job = await jobs.create({ model: 'fettle-tiny', training_file: file.id });
  await jobs.cancel(job.id);
  const [request, response] = await once(receiver, 'request', { signal: AbortSignal.timeout(30_000) });
  const body = Buffer.concat(await request.toArray()).toString();
  response.end();
  const event = await client.webhooks.unwrap(body, request.headers, endpoint.signing_secret);
  assert.deepEqual([event.type, event.data.id], ['fine_tuning.job.cancelled', job.id]);
  await assert.rejects(client.webhooks.unwrap(`${body} `, request.headers, endpoint.signing_secret));
  assert.deepEqual(await ids(client.webhooks.list()), [endpoint.id]);
  assert.equal((await client.webhooks.delete(endpoint.id)).deleted, true);
  receiver.close();
}

async function models(tuned) {
  assert.ok((await ids(client.models.list())).includes(tuned));
  assert.equal((await client.models.retrieve(tuned)).id, tuned);
  assert.equal((await client.models.delete(tuned)).deleted, true);
  await refused(client.models.retrieve(tuned), OpenAI.NotFoundError, { code: 'model_not_found', param: 'model' });
}

async function errors() {
  await refused(jobs.create({ model: 'fettle-tiny', training_file: 'nonsense' }), OpenAI.BadRequestError, {
    message: 'invalid training_file: Invalid File Name',
    type: 'invalid_request_error',
    param: 'training_file',
  });
  await refused(client.get('/no/such/thing'), OpenAI.NotFoundError, { message: 'Invalid URL (GET /v1/no/such/thing)' });
  const stranger = client.withOptions({ apiKey: 'sk-of-somebody-else' });
  await refused(stranger.models.list(), OpenAI.AuthenticationError, { code: 'invalid_api_key' });
}

async function all(page) {
  const found = [];
  for await (const item of page) found.push(item);
  return found;
}

async function ids(page) {
  return (await all(page)).map((item) => item.id);
}

async function refused(call, kind, expected) {
  const error = await call.then(
    () => assert.fail(`should have been refused with ${kind.name}`),
    (error) => error,
  );
  assert.ok(error instanceof kind, String(error));
  assert.ok(error.requestID);
  assert.deepEqual(Object.keys(error.error).sort(), ['code', 'message', 'param', 'type']);
  for (const [name, value] of Object.entries(expected)) assert.equal(error.error[name], value);
}

await main(process.argv[2]);
