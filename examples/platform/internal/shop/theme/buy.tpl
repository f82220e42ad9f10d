{if $stock}
<form class="buy" method="post" action="/cart/add">
  <input type="hidden" name="product" value="{$product}">
  <label>Quantity <input type="number" name="quantity" value="1" min="1" max="99"></label>
  <button type="submit">Add to cart</button>
</form>
{else}
<p class="sold-out">Sold out</p>
{/if}
