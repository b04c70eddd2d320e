// A console: shows all sandboxes and draws again only what changes. It prints what a page would write into its cells.
import { setTimeout as sleep } from 'node:timers/promises';

import * as grpc from '@grpc/grpc-js';
import * as loader from '@grpc/proto-loader';
import { getProtoPath } from 'google-proto-files';

import type { ProtoGrpcType } from './gen/sandbox';
import type { SandboxStatus__Output } from './gen/sandbox/v1/SandboxStatus';
import type { WatchStatusResponse__Output } from './gen/sandbox/v1/WatchStatusResponse';

// As in the script that generates the types. A sequence stays far below 2^53.
const OPTIONS = { enums: String, longs: Number, defaults: true, oneofs: true, includeDirs: ['../../protos', getProtoPath('..')] };
const contract = grpc.loadPackageDefinition(
  loader.loadSync('sandbox/v1/sandbox.proto', OPTIONS),
) as unknown as ProtoGrpcType;

/** The columns, by the names that `changed_fields` has. */
const COLUMNS: Record<string, (status: SandboxStatus__Output) => string> = {
  phase: (status) => `${status.phase}`,
  reason: (status) => `${status.reason}`,
  message: (status) => status.message,
  restart_count: (status) => `${status.restartCount}`,
  desired_state: (status) => `${status.desiredState}`,
};

/** The uids of the sandboxes that have a row, by name. */
const rows = new Map<string, string>();

function draw(name: string, column: string, value: string): void {
  console.log(`${name} ${column}: ${value}`);
}

/** Draws the changed cells of a row, or all of them if `changed` is undefined. */
function show(status: SandboxStatus__Output, changed: string[] | undefined): void {
  const name = `${status.namespace}/${status.sandboxId}`;
  if (status.phase === 'PHASE_TERMINATED') {
    if (rows.delete(name)) draw(name, 'row', 'removed');
    return;
  }
  const known = rows.get(name) === status.uid;
  rows.set(name, status.uid);
  for (const column of (known && changed) || Object.keys(COLUMNS)) {
    const cell = COLUMNS[column];
    if (cell) draw(name, column, cell(status));
  }
}

/** Removes the rows of sandboxes that are not in a snapshot. */
function keepOnly(names: Set<string>): void {
  for (const name of rows.keys()) {
    if (!names.has(name)) {
      rows.delete(name);
      draw(name, 'row', 'removed');
    }
  }
}

async function watch(): Promise<never> {
  let after: number | undefined; // From snapshotComplete on, the point to resume at.
  let silence = 30_000; // Until a snapshotComplete says the period of the heartbeats.
  for (;;) {
    // A new connection for each stream: the old one may be dead, and nothing has said so.
    const client = new contract.sandbox.v1.SandboxService(
      process.env.SANDBOX_SERVER ?? '127.0.0.1:50051',
      grpc.credentials.createInsecure(),
      { 'grpc.use_local_subchannel_pool': 1 },
    );
    const stream = client.watchStatus({ afterSequence: after });
    stream.on('error', () => {}); // The loop throws it too.
    let heard = Date.now();
    const timer = setInterval(() => Date.now() - heard > silence && stream.cancel(), 100);
    const snapshot = new Set<string>();
    try {
      for await (const message of stream as AsyncIterable<WatchStatusResponse__Output>) {
        heard = Date.now();
        const { status, snapshotComplete } = message;
        if (snapshotComplete) {
          silence = 2_000 * snapshotComplete.heartbeatSeconds;
          keepOnly(snapshot);
          draw('console', 'state', `live, ${rows.size} sandboxes`);
        }
        if (status) {
          if (after === undefined) snapshot.add(`${status.namespace}/${status.sandboxId}`);
          show(status, message.changedFields?.paths);
        }
        if (after !== undefined || snapshotComplete) after = message.sequence;
      }
    } catch (error) {
      const { code } = error as grpc.ServiceError;
      if (code === grpc.status.OUT_OF_RANGE) {
        after = undefined; // The history is no longer kept: a snapshot again.
      } else if (code !== grpc.status.UNAVAILABLE && code !== grpc.status.CANCELLED) {
        throw error;
      }
      draw('console', 'state', 'connecting again');
    } finally {
      clearInterval(timer);
      client.close();
    }
    await sleep(500);
  }
}

watch().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
