SELECT
  `http`.`host` AS shop,
  SUM(1.0 * `n` * POW(2.0, -GREATEST(@now - UNIX_MICROS(`at`), 0.0) / @half_life)) AS requests,
  SUM(SUM(1.0 * `n` * POW(2.0, -GREATEST(@now - UNIX_MICROS(`at`), 0.0) / @half_life))) OVER () AS total
FROM `shops-prod.logs.requests`
WHERE `http`.`host` != ''
  AND LENGTH(`http`.`host`) <= 128
  AND `at` IS NOT NULL
  AND `n` > 0
  AND `at` >= @since
  AND `day` >= DATE(@since)
GROUP BY 1
ORDER BY 2 DESC, 1
LIMIT 200000
