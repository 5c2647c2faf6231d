-- The vault surface for wrk: every request pays a new checkout with one of many cards.
-- Arguments: number of the run, bearer token, user id, card ids divided by commas.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  run = args[1]
  made = 0
  head = " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port .. "\r\nAuthorization: Bearer " .. args[2]
    .. "\r\nContent-Type: application/json\r\nContent-Length: "
  bodies = {}
  for card in string.gmatch(args[4], "[^,]+") do
    local body = '{"userId":"' .. args[3] .. '","basketId":"basket-1","creditCardId":"' .. card
      .. '","shipmentId":"shipment-1","products":[{"productId":"prod-1","quantity":2,"price":29.99},'
      .. '{"productId":"prod-2","price":15.5}],"address":"1 High Street, Springfield","isGift":false,"totalPrice":75.48}'
    bodies[#bodies + 1] = #body .. "\r\n\r\n" .. body
  end
end

function request()
  made = made + 1
  return "POST /api/payment/pay/checkout-" .. run .. "-" .. made .. head .. bodies[made % #bodies + 1]
end
