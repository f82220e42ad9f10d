{* Header, variant a *}
<header class="site site-a">
  
  <a class="logo" href="/">{$shop.name}</a>
  {include "nav.tpl"}
  
</header>
