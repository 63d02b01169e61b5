-- Posts one body again and again; prints what came of it as one line of JSON after an "@".
local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["content-type"] = "application/json"
file:close()

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n@{"answered": %d, "duration_us": %d, "errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests - errors.status, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
