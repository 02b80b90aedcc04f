-- psql -f database.sql, as a superuser: the application's own role, the one of rollbackd, and the database
CREATE ROLE smartalk LOGIN;
CREATE ROLE rollbackd LOGIN CREATEDB;
GRANT smartalk TO rollbackd;
GRANT pg_signal_backend, pg_read_all_settings TO rollbackd;
GRANT CONNECT ON DATABASE postgres TO rollbackd;
CREATE DATABASE smartalk OWNER smartalk;
\connect smartalk
SET ROLE smartalk;
CREATE TABLE people (name text PRIMARY KEY, joined timestamptz NOT NULL DEFAULT clock_timestamp());
