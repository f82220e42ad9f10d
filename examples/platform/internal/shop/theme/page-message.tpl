{include "head.tpl"}
{include "header.tpl"}
<main class="message">
  <h1>{$title}</h1>
  <p>{$message}</p>
  <p><a href="/">To the products</a></p>
</main>
{include "footer.tpl"}
