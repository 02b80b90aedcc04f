-- psql -f database.sql, as a superuser: the platform's own role, the one of rollbackd, and the database
CREATE ROLE platform LOGIN;
CREATE ROLE rollbackd LOGIN CREATEDB;
GRANT platform TO rollbackd;
GRANT pg_signal_backend, pg_read_all_settings TO rollbackd;
GRANT CONNECT ON DATABASE postgres TO rollbackd;
CREATE DATABASE platform OWNER platform;
