{include "head.tpl"}
{include "header.tpl"}
<main class="single">
  {$detail}
  {include "buy.tpl"}
</main>
{include "footer.tpl"}
