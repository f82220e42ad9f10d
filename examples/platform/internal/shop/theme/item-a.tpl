<li class="product product-a">
  <a class="product-link" href="/products/{$product.id}">
    <span class="picture picture-{$product.picture}" aria-hidden="true"></span>
    <span class="name">{$product.name}</span>
  </a>
  <span class="category">{$product.category}</span>
  <span class="price">{$product.price}</span>
</li>
