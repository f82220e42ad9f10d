SELECT
  `shop` AS shop,
  SUM(1.0) AS requests,
  SUM(SUM(1.0)) OVER () AS total
FROM `shops-prod.logs.requests`
WHERE `shop` != ''
  AND LENGTH(`shop`) <= 128
  AND `time` IS NOT NULL
GROUP BY 1
ORDER BY 2 DESC, 1
LIMIT 200000
