-- The orders surface for wrk: every request records the payment of a new order, or reads one that is there.
-- Arguments: number of the run, bearer token, number of users, "create" or "read", how many there are to read.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  first = tonumber(args[1]) * 10000000
  users = tonumber(args[3])
  reading = args[4] == "read"
  there = tonumber(args[5])
  made = 0
  local place = "HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port .. "\r\nAuthorization: Bearer " .. args[2] .. "\r\n"
  head = "POST /api/payments " .. place .. "Content-Type: application/json\r\nContent-Length: "
  tail = " " .. place .. "\r\n"
end

function request()
  made = made + 1
  if reading then
    return "GET /api/payments/" .. made % there + 1 .. tail
  end
  local body = '{"userId":' .. made % users + 1 .. ',"orderId":' .. first + made .. ',"amount":99.99}'
  return head .. #body .. "\r\n\r\n" .. body
end
