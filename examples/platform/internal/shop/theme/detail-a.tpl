<div class="detail detail-a">
  <span class="picture picture-large picture-{$product.picture}" aria-hidden="true"></span>
  <h1>{$product.name}</h1>
  <p class="category">{$product.category}</p>
  <p class="description">{$product.description}</p>
  <p class="price">{$product.price}</p>
</div>
