<main class="list">
  {if $items}
  <ul class="products columns-{#columns#}">
    {foreach $items as $item}
    {$item.html}
    {/foreach}
  </ul>
  {else}
  <p class="empty">There is nothing here yet.</p>
  {/if}
  {if $next}<p class="pager"><a rel="next" href="/?after={$next}">More products</a></p>{/if}
</main>
