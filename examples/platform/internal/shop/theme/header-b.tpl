{* Header, variant b *}
<header class="site site-b">
  <p class="claim">{#claim#}</p>
  <a class="logo" href="/">{$shop.name}</a>
  {include "nav.tpl"}
  
</header>
