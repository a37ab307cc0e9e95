-- Pipelining, bodies, pauses and machine-readable results for wrk.
--
-- usage: wrk -s wrk.lua URL -- DEPTH [METHOD BODY [PAUSE]]
--
-- The request is still formatted once and sent as it stands: wrk itself counts how
-- many requests one write holds and waits for as many responses.

function init(args)
   local depth = tonumber(args[1]) or 1
   local pause = tonumber(args[4]) or 0
   wrk.method = args[2] or "GET"
   if args[3] and args[3] ~= "" then wrk.body = args[3] end
   if pause > 0 then
      -- In whole milliseconds, 0 to twice the mean.
      delay = function() return math.floor(math.random() * (2 * pause + 1)) end
   end
   local one = wrk.format()
   wrk.format = function() return string.rep(one, depth) end
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      '{"requests": %d, "micros": %d, "errors": %d, "p50": %d, "p99": %d}\n',
      summary.requests, summary.duration,
      e.connect + e.read + e.write + e.status + e.timeout,
      latency:percentile(50), latency:percentile(99)))
end
