CREATE TABLE shops (
    id       text PRIMARY KEY CHECK (id ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'),
    host     text NOT NULL UNIQUE,
    name     text NOT NULL,
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$')
);

CREATE TABLE products (
    id          bigint PRIMARY KEY CHECK (id > 0),
    shop        text NOT NULL REFERENCES shops (id),
    name        text NOT NULL,
    description text NOT NULL,
    category    text NOT NULL,
    price_cents bigint NOT NULL CHECK (price_cents >= 0),
    stock       bigint NOT NULL CHECK (stock >= 0)
);
CREATE INDEX products_of_shop ON products (shop, id);

CREATE TABLE orders (
    id              text PRIMARY KEY,
    idempotency_key text NOT NULL UNIQUE,
    request_hash    bytea NOT NULL,
    shop            text NOT NULL REFERENCES shops (id),
    total_cents     bigint NOT NULL CHECK (total_cents >= 0),
    currency        text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE order_lines (
    order_id   text NOT NULL REFERENCES orders (id),
    product    bigint NOT NULL REFERENCES products (id),
    name       text NOT NULL,
    quantity   integer NOT NULL CHECK (quantity > 0),
    unit_cents bigint NOT NULL CHECK (unit_cents >= 0),
    PRIMARY KEY (order_id, product)
);
