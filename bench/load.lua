-- Payments for wrk: every request pays a new order; users come round again.
-- Arguments: prefix of the order ids, bearer token, number of users, "keyed" for an Idempotency-Key a request.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  prefix = args[1] .. "-" .. number .. "-"
  users = tonumber(args[3])
  keyed = args[4] == "keyed"
  made = 0
  head = "POST /api/payments HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port ..
    "\r\nAuthorization: Bearer " .. args[2] .. "\r\nContent-Type: application/json\r\n"
end

function request()
  made = made + 1
  local user = "user-" .. made % users
  local order = prefix .. made .. "." .. user
  local body = '{"orderId":"' .. order .. '","userId":"' .. user ..
    '","amount":75.48,"currency":"USD","paymentMethod":{"type":"credit_card","cardNumber":"4242424242424242",' ..
    '"expiryMonth":"12","expiryYear":"2039","cvv":"123"}}'
  local key = keyed and ("Idempotency-Key: " .. order .. "\r\n") or ""
  return head .. key .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
end
