import uPlot from "uplot";
import { colour, el, say } from "./dom";
import { count, rate } from "./format";
import type { Point } from "./types";

const KEPT_S = 600;
const HEIGHT = 150;

interface Series {
  name: string;
  colour: string;
  value(point: Point): number | null;
}

interface Kind {
  title: string;
  what: string;
  stepped?: boolean;
  format(value: number): string;
  series(versions: string[]): Series[];
}

const perVersion = (versions: string[], position: 0 | 1 | 2): Series[] =>
  versions.map((key, index) => ({
    name: key.replace("/", " "),
    colour: colour(index),
    value: (point) => point.versions[key]?.[position] ?? null,
  }));

const KINDS: Kind[] = [
  { title: "Finished per second", what: "/s", format: (value) => rate(value), series: (versions) => perVersion(versions, 0) },
  {
    title: "Waiting requests (lag)",
    what: "waiting",
    format: count,
    series: (versions) => [
      { name: "router", colour: "router", value: (point) => point.router_lag_records },
      ...perVersion(versions, 1),
    ],
  },
  { title: "Workers (replicas)", what: "workers", stepped: true, format: count, series: (versions) => perVersion(versions, 2) },
];

class Chart {
  readonly node: HTMLElement;
  private readonly plot = el("div", { class: "plot" });
  private readonly summary = el("p", { class: "hidden" });
  private readonly legend = el("ul", { class: "legend" });
  private values: HTMLElement[] = [];
  private series: Series[] = [];
  private chart: uPlot | null = null;
  private hovered: number | null = null;
  private data: uPlot.AlignedData = [[]];

  constructor(private readonly kind: Kind) {
    this.node = el("figure", { class: "panel chart" }, el("figcaption", {}, el("h3", {}, kind.title)), this.plot, this.legend, this.summary);
    this.plot.setAttribute("aria-hidden", "true");
    new ResizeObserver(() => this.chart?.setSize({ width: this.plot.clientWidth, height: HEIGHT })).observe(this.plot);
  }

  /** Draws anew in the colours of now, for these versions. */
  build(versions: string[]): void {
    this.series = this.kind.series(versions);
    this.values = this.series.map(() => el("span", { class: "now" }));
    this.legend.replaceChildren(
      ...this.series.map((series, index) =>
        el("li", { class: series.colour }, el("span", { class: "swatch", "aria-hidden": "true" }), series.name, " ", this.values[index]!),
      ),
    );
    this.chart?.destroy();
    this.chart = new uPlot(this.options(), [[], ...this.series.map(() => [])], this.plot);
  }

  show(points: Point[]): void {
    this.data = [points.map((point) => point.at_s), ...this.series.map((series) => points.map(series.value))];
    const newest = points.at(-1)?.at_s ?? 0;
    this.chart?.setData(this.data, false);
    this.chart?.setScale("x", { min: newest - KEPT_S, max: newest });
    this.label();
  }

  private options(): uPlot.Options {
    const ink = cssColour("--muted");
    const grid = { stroke: cssColour("--line"), width: 1 };
    const font = "11px system-ui, sans-serif";
    const paths = this.kind.stepped === true ? uPlot.paths.stepped?.({ align: 1 }) : undefined;
    return {
      width: this.plot.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, sync: { key: "history" }, points: { size: 6 }, drag: { setScale: false, x: false, y: false } },
      scales: {
        x: { time: true },
        y: { range: (_chart, _low, high) => [0, Math.max(this.kind.stepped === true ? 2 : 1, (high ?? 0) * 1.1)] },
      },
      axes: [
        { stroke: ink, font, grid: { show: false }, ticks: { show: false }, size: 26, space: 70, values: "{HH}:{mm}" },
        {
          stroke: ink,
          font,
          grid,
          ticks: { show: false },
          size: 44,
          space: 34,
          incrs: [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6],
          values: (_chart, ticks) => ticks.map((tick) => (tick >= 10_000 ? `${tick / 1000}k` : String(tick))),
        },
      ],
      series: [
        {},
        ...this.series.map((series, index) => ({
          stroke: swatchColour(this.legend.children[index]),
          width: 1.75,
          points: { show: false },
          label: series.name,
          ...(paths === undefined ? {} : { paths }),
        })),
      ],
      hooks: {
        setCursor: [
          (chart) => {
            this.hovered = chart.cursor.left !== undefined && chart.cursor.left >= 0 ? (chart.cursor.idx ?? null) : null;
            this.label();
          },
        ],
      },
    };
  }

  /** The values under the pointer, else the newest. */
  private label(): void {
    const last = (this.data[0]?.length ?? 0) - 1;
    const index = this.hovered ?? last;
    this.values.forEach((node, number) => {
      const value = this.data[number + 1]?.[index];
      say(node, value === null || value === undefined ? "" : this.kind.format(value));
    });
    if (last < 0) return;
    const told = this.series.map((series, number) => `${series.name} ${this.kind.format(this.data[number + 1]?.[last] ?? 0)}`);
    say(this.summary, `${this.kind.title} now: ${told.join(", ")}.`);
  }
}

/** The charts; `history` replaces all points, `add` appends one, `recolour` draws in another theme. */
export function startCharts(root: HTMLElement): { history(points: Point[]): void; add(point: Point): void; recolour(): void } {
  const charts = KINDS.map((kind) => new Chart(kind));
  root.append(...charts.map((chart) => chart.node));
  let points: Point[] = [];
  let versions: string[] = [];
  const build = (): void => {
    for (const chart of charts) {
      chart.build(versions);
      chart.show(points);
    }
  };
  const show = (): void => {
    const named = Object.keys(points.at(-1)?.versions ?? {});
    if (named.join() !== versions.join()) {
      versions = named;
      build();
    } else {
      for (const chart of charts) chart.show(points);
    }
  };
  return {
    history(all) {
      points = all;
      show();
    },
    add(point) {
      if (point.at_s <= (points.at(-1)?.at_s ?? 0)) return;
      points = [...points.filter((held) => held.at_s >= point.at_s - KEPT_S), point];
      show();
    },
    recolour: build,
  };
}

/** A canvas knows no variables: the colour as the browser resolves it. */
function cssColour(variable: string): string {
  const probe = el("span");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const resolved = getComputedStyle(probe).color;
  probe.remove();
  return resolved;
}

function swatchColour(item: Element | undefined): string {
  const swatch = item?.querySelector(".swatch");
  return swatch ? getComputedStyle(swatch).backgroundColor : "gray";
}
