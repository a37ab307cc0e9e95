-- Pipelining and machine-readable results for wrk.
--
-- usage: wrk -s wrk.lua URL -- DEPTH
--
-- The request is still formatted once and sent as it stands: wrk itself counts how
-- many requests one write holds and waits for as many responses.

function init(args)
   local depth = tonumber(args[1]) or 1
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
