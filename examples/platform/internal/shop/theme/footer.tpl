{include "promises.tpl"}
<footer class="site">
  <p>{$shop.name} · {$shop.host}</p>
</footer>
</body>
</html>
