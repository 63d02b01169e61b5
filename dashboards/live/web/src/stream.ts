import type { Point, Snapshot } from "./types";

export type Freshness = { state: "connecting" | "live" | "old" | "lost"; age_s: number };

export interface Listener {
  history(points: Point[]): void;
  snapshot(snapshot: Snapshot): void;
  freshness(freshness: Freshness): void;
}

// A snapshot comes each second; one that waits for a part that does not answer comes a few seconds later.
const OLD_AFTER_MS = 6_000;
const AGAIN_AFTER_MS = 2_000;

/** Keeps a stream open while the page can be seen, and tells how old the newest snapshot is. */
export function follow(listener: Listener): void {
  let source: EventSource | null = null;
  let heard_ms: number | null = null;
  let lost = false;

  const open = (): void => {
    source?.close();
    source = new EventSource("api/stream");
    source.addEventListener("history", (event) => listener.history(JSON.parse(event.data) as Point[]));
    source.addEventListener("snapshot", (event) => {
      heard_ms = performance.now();
      lost = false;
      listener.snapshot(JSON.parse(event.data) as Snapshot);
      tell();
    });
    source.addEventListener("error", () => {
      lost = true;
      tell();
      // The browser tries again by itself, but gives up for good on an answer that is no stream.
      if (source?.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || open(), AGAIN_AFTER_MS);
    });
  };

  const tell = (): void => {
    const age_ms = heard_ms === null ? 0 : performance.now() - heard_ms;
    const state = lost ? "lost" : heard_ms === null ? "connecting" : age_ms > OLD_AFTER_MS ? "old" : "live";
    listener.freshness({ state, age_s: Math.round(age_ms / 1000) });
  };

  document.addEventListener("visibilitychange", () => {
    // A page that nobody sees costs nothing.
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null) {
      open();
    }
  });
  setInterval(tell, 1_000);
  if (!document.hidden) open();
}
