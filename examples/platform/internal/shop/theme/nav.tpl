<nav aria-label="Shop">
  <ul>
    <li><a href="/">All products</a></li>
    <li><a href="/cart">Cart</a></li>
  </ul>
</nav>
