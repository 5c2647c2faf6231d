-- Refunds for wrk: a little of each payment in a file of ids, round and round.
-- Arguments: the file, bearer token.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")

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
