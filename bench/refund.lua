-- Refunds for wrk: a little of each payment in a file of ids, round and round.
-- Arguments: the file, bearer token.

function init(args)
  ids = {}
  for id in io.lines(args[1]) do ids[#ids + 1] = id end
  asked = 0
  head = " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port .. "\r\nAuthorization: Bearer " .. args[2] ..
    "\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n" .. '{"amount":0.05}'
end

function request()
  asked = asked + 1
  return "POST /api/payments/" .. ids[asked % #ids + 1] .. "/refund" .. head
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
