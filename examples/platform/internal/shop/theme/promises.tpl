{if #promises#}
<aside class="promises">
  <ul>
    <li>Made by hand</li>
    <li>Sent within two days</li>
    <li>{#promise#}</li>
  </ul>
</aside>
{/if}
