const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const NOTHING = "–";

export function count(value: number): string {
  return plain.format(value);
}

/** A rate with as many digits as it deserves. */
export function rate(value: number | null): string {
  if (value === null) return NOTHING;
  if (value > 0 && value < 0.05) return "<0.1";
  return value >= 100 ? plain.format(value) : value.toFixed(value >= 10 || value === 0 ? 0 : 1);
}

export function share(value: number | null): string {
  if (value === null) return NOTHING;
  const percent = value * 100;
  if (percent > 0 && percent < 0.1) return "<0.1 %";
  if (percent > 99.9 && percent < 100) return ">99.9 %";
  return `${percent.toFixed(percent === 0 || percent === 100 ? 0 : 1).replace(/\.0$/, "")} %`;
}

export function milliseconds(value: number | null): string {
  if (value === null) return NOTHING;
  if (value >= 10_000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1_000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function bytes(value: number): string {
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

export function ago(seconds: number): string {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} d ago`;
}
