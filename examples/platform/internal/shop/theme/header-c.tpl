{* Header, variant c *}
<header class="site site-c">
  
  <a class="logo" href="/">{$shop.name}</a>
  {include "nav.tpl"}
  <p class="claim claim-below">{#claim#}</p>
</header>
