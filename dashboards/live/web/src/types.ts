// What the stream sends: the structs of dashboards/live/snapshot.py and of the modules that it takes them from.

export interface Queue {
  lag_records: number;
  arriving_per_s: number | null;
  leaving_per_s: number | null;
}

export interface Percentiles {
  p50: number | null;
  p95: number | null;
  p99: number | null;
}

export interface Report {
  requests: number;
  rate_per_s: number;
  error_rate: number | null;
  latency_ms: { queue_wait: Percentiles; inference: Percentiles; total: Percentiles };
  prediction_distribution: Record<string, number>;
  prediction_values: Record<string, number> | null;
  resources: { workers: number; cpu_cores: number; memory_bytes: number };
}

export interface VersionCard {
  version: string;
  weight: number;
  quantization: string;
  size_bytes: number;
  queue: Queue;
  report: Report | null;
}

export interface TensorInfo {
  name: string;
  datatype: string;
  shape: number[];
}

export interface ModelCard {
  name: string;
  description: string;
  default: boolean;
  inputs: TensorInfo[];
  example: unknown[] | null;
  versions: VersionCard[];
}

export interface Letter {
  offset: number;
  request_id: string;
  dead_lettered_s: number;
  reason: string;
  detail: string;
  model: string | null;
  version: string | null;
  attempts: number;
  cut: string | null;
}

export interface Source {
  age_s: number | null;
  error: string | null;
}

/** [finished a second, waiting, workers, total p95 in ms] */
export type VersionPoint = [number, number, number, number | null];

export interface Point {
  at_s: number;
  router_lag_records: number;
  versions: Record<string, VersionPoint>;
}

export interface Rollout {
  id: string;
  model: string;
  stable: string;
  candidate: string;
  phase: string;
  steps: string[];
  step: number;
  requests: number;
  says: string;
  checks: { check: string; says: string; is_failed: boolean; low: number | null; high: number | null }[];
}

export interface Snapshot {
  at_s: number;
  verdict: { tone: "idle" | "good" | "warn" | "bad"; title: string; detail: string };
  api: Source;
  broker: Source;
  flow: { router: Queue; workers: Queue; workers_alive: number; error_share: number | null };
  models: ModelCard[];
  rollouts: Rollout[];
  failures: { model: string; version: string; code: string; count: number }[];
  letters: { kept: number; by_reason: Record<string, number>; newest: Letter[] };
  parts: { name: string; state: string; restarts: number }[];
  point: Point;
}
