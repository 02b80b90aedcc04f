-- psql -f database.sql, as a superuser: the application's own role, the one of rollbackd, and the database
CREATE ROLE shop LOGIN;
CREATE ROLE rollbackd LOGIN CREATEDB;
GRANT shop TO rollbackd;
GRANT pg_signal_backend, pg_read_all_settings TO rollbackd;
GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO rollbackd;
GRANT CONNECT ON DATABASE postgres TO rollbackd;
CREATE DATABASE shop OWNER shop;
\connect shop
SET ROLE shop;
CREATE TABLE orders (
    id bigserial PRIMARY KEY,
    net integer NOT NULL,
    customer text NOT NULL,
    placed timestamptz NOT NULL DEFAULT clock_timestamp()
);
