-- Tokens: read your own writes.
CREATE FUNCTION cqrs.token() RETURNS xid8
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'cqrs_token';
COMMENT ON FUNCTION cqrs.token() IS
'the id of the current transaction, for readers to wait for; covers this transaction and all that committed before';

CREATE FUNCTION cqrs.caught_up(projection regclass, token xid8) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'cqrs_caught_up';
COMMENT ON FUNCTION cqrs.caught_up(regclass, xid8) IS
'does the projection show all that the token covers?';

CREATE FUNCTION cqrs.wait_for(projection regclass, token xid8, timeout interval DEFAULT '5 s') RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT
AS 'MODULE_PATHNAME', 'cqrs_wait_for';
COMMENT ON FUNCTION cqrs.wait_for(regclass, xid8, interval) IS
'wait until the projection shows all that the token covers; false at the timeout, and at once where nothing can arrive';

GRANT EXECUTE ON FUNCTION cqrs.token(), cqrs.caught_up(regclass, xid8), cqrs.wait_for(regclass, xid8, interval) TO PUBLIC;
