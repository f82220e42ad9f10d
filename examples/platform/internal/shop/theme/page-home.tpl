{include "head.tpl"}
{include "header.tpl"}
{if $first}{include "hero.tpl"}{/if}
{include "list.tpl"}
{include "footer.tpl"}
