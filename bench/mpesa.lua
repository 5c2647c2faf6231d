-- The M-Pesa surface for wrk: every request asks another phone, whose owner leaves it lying there.
-- Arguments: number of the run, client id, package id.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")

function init(args)
  made = tonumber(args[1]) * 1000
  head = "POST /api/v1/payments/initiate HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port ..
    "\r\nContent-Type: application/json\r\nContent-Length: "
  start = '{"client_id":"' .. args[2] .. '","package_id":"' .. args[3] .. '","description":"A plan","phone_number":"+2547'
end

function request()
  made = made + 1
  local body = start .. string.format("%04d", made % 10000) .. '7002"}'
  return head .. #body .. "\r\n\r\n" .. body
end
