<li class="product product-b">
  <span class="category">{$product.category}</span>
  <a class="product-link" href="/products/{$product.id}"><span class="name">{$product.name}</span></a>
  <span class="price">{$product.price}</span>
</li>
