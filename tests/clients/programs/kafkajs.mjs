// kafkajs over SASL_SSL; asked on stdin, answers on stdout.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// Installed beside the place where this is run, not beside this file.
const { Kafka, logLevel } = createRequire(`${process.cwd()}/`)("kafkajs");
const asked = JSON.parse(readFileSync(0, "utf8"));
const kafka = new Kafka({
  brokers: [asked.kafka],
  logLevel: logLevel.ERROR,
  ssl: { ca: [readFileSync(asked.kafka_ca, "utf8")] },
  sasl: { mechanism: "scram-sha-512", username: asked.kafka_user, password: asked.kafka_password },
});

const run = `kafkajs-${Date.now()}`;
const models = Object.keys(asked.questions);
const found = {};
const consumer = kafka.consumer({ groupId: run });
await consumer.connect();
await consumer.subscribe({ topic: "inferlane.results", fromBeginning: true });
const all = new Promise((resolve) => {
  consumer.run({
    eachMessage: async ({ message }) => {
      const id = message.headers.ce_id?.toString() ?? "";
      if (!id.startsWith(`${run}-`)) return;
      const { outputs } = JSON.parse(message.value.toString());
      found[id.slice(run.length + 1)] = Object.fromEntries(outputs.map(({ name, data }) => [name, data]));
      if (Object.keys(found).length === models.length) resolve();
    },
  });
});

const producer = kafka.producer();
await producer.connect();
await producer.send({
  topic: "inferlane.bulk",
  messages: models.map((model) => ({
    value: JSON.stringify({
      inputs: Object.entries(asked.questions[model]).map(([name, tensor]) => ({ name, ...tensor })),
    }),
    headers: { ce_id: `${run}-${model}`, ce_model: model, ce_modelversion: "v1" },
  })),
});
await all;
await Promise.all([consumer.disconnect(), producer.disconnect()]);
console.log(JSON.stringify(found));
