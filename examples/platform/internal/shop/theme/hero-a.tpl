<section class="hero hero-a">
  <h1>{$shop.name}</h1>
  <p>{#claim#}</p>
</section>
