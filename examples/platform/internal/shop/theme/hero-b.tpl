<section class="hero hero-b">
  <div class="hero-text">
    <p class="kicker">{#claim#}</p>
    <h1>{$shop.name}</h1>
  </div>
</section>
