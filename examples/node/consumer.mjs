// Read the topic of conversations: print what contacts wrote, and which tickets were closed.
//
//     npm ci && npm run types && node consumer.mjs kafka.example:9092 whatsms 10
//
// It stops so many seconds after the last record. It keeps no place, so it begins anew each time: examples/consumer.py
// shows how a place is kept. KafkaJS sees committed records only, which is what the topics ask for, unless it is told
// otherwise. The relay compresses with Zstandard, for which KafkaJS wants a codec.

import { createRequire } from "node:module";
import process from "node:process";

/** @typedef {import("./types/message.received.schema.js").MessageReceived} MessageReceived */

const require = createRequire(import.meta.url);
/** @type {any} */
const kafkajs = require("kafkajs");
/** @type {any} */
const { decompress } = require("fzstd");

const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = kafkajs;
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: () => Promise.reject(new Error("this program only reads")),
  decompress: async (/** @type {Buffer} */ bytes) => Buffer.from(decompress(bytes)),
});

const [servers = "localhost:9092", prefix = "whatsms", seconds = "10"] = process.argv.slice(2);
const client = new Kafka({ clientId: "typed", brokers: servers.split(","), logLevel: logLevel.ERROR });
const consumer = client.consumer({ groupId: `typed-${process.pid}`, readUncommitted: false });

/**
 * Return a line about a record; nothing where it is of no interest here, or is none of ours.
 * @param {Record<string, string>} headers
 * @param {string} value
 */
function told(headers, value) {
  switch (headers["ce_type"]) {
    case "pt.whatsms.message.received": {
      /** @type {MessageReceived} */
      const data = JSON.parse(value);
      return `${headers["ce_ticketid"]} wrote ${data.message.body ?? ""}`;
    }
    case "pt.whatsms.ticket.closed":
      return `${headers["ce_ticketid"]} closed`;
    default: // a type of a later release is news, not an error
      return undefined;
  }
}

/** @type {NodeJS.Timeout | undefined} */
let quiet;
const done = new Promise((resolve) => {
  const wait = () => {
    clearTimeout(quiet);
    quiet = setTimeout(resolve, Number(seconds) * 1000);
  };
  wait();
  consumer.on(consumer.events.END_BATCH_PROCESS, wait);
});

await consumer.connect();
await consumer.subscribe({ topic: `${prefix}.conversations`, fromBeginning: true });
await consumer.run({
  autoCommit: false,
  eachMessage: async (/** @type {any} */ { message }) => {
    const headers = Object.fromEntries(
      Object.entries(message.headers ?? {}).map(([name, bytes]) => [name, String(bytes)]),
    );
    const line = headers["ce_logid"] && told(headers, String(message.value));
    if (line) console.log(line);
  },
});
await done;
await consumer.disconnect();
