-- Domains of customers, beside the shop's own host.
CREATE TABLE domains (
    host text PRIMARY KEY,
    shop text NOT NULL REFERENCES shops (id)
);
