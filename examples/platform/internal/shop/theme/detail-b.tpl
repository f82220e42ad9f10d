<div class="detail detail-b">
  <h1>{$product.name}</h1>
  <p class="price">{$product.price}</p>
  <p class="description">{$product.description}</p>
  <p class="category">In {$product.category}</p>
</div>
