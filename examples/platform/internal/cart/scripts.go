package cart

import "github.com/redis/rueidis"

// The scripts run in Redis, each as one step. KEYS are those of one session and share a hash tag,
// so they work in a cluster. In the hash of a cart, "gen" is the generation and any other field the
// number of a product.

// addScript: KEYS cart, pending; ARGV product, quantity, most lines, most quantity, seconds, new generation.
var addScript = rueidis.NewLuaScript(`
local had = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local lines = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], 'gen')
if had == 0 and lines >= tonumber(ARGV[3]) then return 'lines' end
if had + tonumber(ARGV[2]) > tonumber(ARGV[4]) then return 'quantity' end
redis.call('HSETNX', KEYS[1], 'gen', ARGV[6])
redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 'ok'`)

// setScript: KEYS cart, pending; ARGV product, quantity, seconds. It changes only lines that exist.
var setScript = rueidis.NewLuaScript(`
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'absent' end
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 'ok'`)

// beginScript: KEYS cart, pending, done of the token; ARGV token, seconds, hash of the lines that were
// shown, total that was shown. A number is longer or, as text, greater than every smaller one.
var beginScript = rueidis.NewLuaScript(`
local order = redis.call('GET', KEYS[3])
if order then return {'done', order} end
local pending = redis.call('GET', KEYS[2])
if pending then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
  return {'pending', pending}
end
local all = redis.call('HGETALL', KEYS[1])
local gen, products, quantities = '', {}, {}
for i = 1, #all, 2 do
  if all[i] == 'gen' then
    gen = all[i+1]
  else
    products[#products+1] = all[i]
    quantities[all[i]] = all[i+1]
  end
end
if #products == 0 then return {'empty', ''} end
table.sort(products, function(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end)
local lines = ''
for _, product in ipairs(products) do lines = lines .. '\n' .. product .. ' ' .. quantities[product] end
if gen ~= ARGV[1] or redis.sha1hex(lines) ~= ARGV[3] then return {'changed', ''} end
local frozen = gen .. '\n' .. ARGV[4] .. lines
redis.call('SET', KEYS[2], frozen, 'EX', ARGV[2])
return {'pending', frozen}`)

// finishScript: KEYS cart, pending, done of the generation; ARGV generation, order, seconds, new
// generation, then product and quantity of each line.
var finishScript = rueidis.NewLuaScript(`
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[3])
local pending = redis.call('GET', KEYS[2])
if pending and string.sub(pending, 1, #ARGV[1]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
if redis.call('HGET', KEYS[1], 'gen') ~= ARGV[1] then return 1 end
for i = 5, #ARGV, 2 do
  local had = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if had > tonumber(ARGV[i+1]) then
    redis.call('HSET', KEYS[1], ARGV[i], had - tonumber(ARGV[i+1]))
  else
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
if redis.call('HLEN', KEYS[1]) > 1 then
  redis.call('HSET', KEYS[1], 'gen', ARGV[4])
else
  redis.call('DEL', KEYS[1])
end
return 1`)

// abortScript: KEYS pending; ARGV generation.
var abortScript = rueidis.NewLuaScript(`
local pending = redis.call('GET', KEYS[1])
if pending and string.sub(pending, 1, #ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`)
