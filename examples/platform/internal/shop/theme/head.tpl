<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{$title} – {$shop.name}</title>
  <link rel="stylesheet" href="{$style}">
</head>
<body class="theme-{#variant#} {if #rounded#}rounded{else}square{/if}">
