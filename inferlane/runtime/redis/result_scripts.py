"""The scripts of the result store, in Lua: each is one command, and atomic."""

# One command for a batch: one command for each result costs five times the CPU, and a separate wake-up another round
# trip. The script is all or nothing: a full store refuses its first write. It deletes the mark of acceptance, which
# lives longer than a result: left behind, it would make an expired result look as if it were still to come.
# KEYS: of the results, then of the marks. ARGV: the seconds to live, the results, then a channel and a message for each
# wake-up.
PUT = """
local count, held, is_first = #KEYS / 2, {}, true
for i = 1, count do
  held[i] = redis.call('SET', KEYS[i], ARGV[i + 1], 'NX', 'GET', 'EX', ARGV[1])
  redis.call('DEL', KEYS[count + i])
  is_first = is_first and not held[i]
end
if is_first then
  for i = count + 2, #ARGV, 2 do
    redis.call('PUBLISH', ARGV[i], ARGV[i + 1])
  end
end
return held
"""
# KEYS: of results. ARGV: the most seconds that they may live from now on.
SHORTEN = """
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[1], 'LT')
end
"""
# KEYS: of the result and of the mark. ARGV: the mark; its seconds.
MARK = """
if type(redis.pcall('GET', KEYS[1])) ~= 'string' then
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
end
"""
# KEYS: of the result and of the mark. ARGV: the result as it was looked at, empty for none; the mark; its seconds.
REOPEN = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1
"""
