-- evsource: event sourcing and CQRS inside PostgreSQL
\echo Use "create extension evsource" to load this file. \quit

