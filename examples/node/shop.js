#!/usr/bin/env node
// An account in evsource, with pg. Connects as libpq does (PGHOST, ...).
//
//     shop.js deposit account-1 100      append, and see it in the read model
//     shop.js withdraw account-1 30      decide on the state, and again when it has moved on
//     shop.js letters NAME               write a letter for each event; start several
//     shop.js listen                     print when there are new events, and each change of the read model
import pg from 'pg';

const WRONG_VERSION = 'VE001';
const LEASE_LOST = 'VE005';

const SETUP = `
  select pg_advisory_xact_lock(1);
  create extension if not exists evsource;
  create table if not exists balances (account text primary key, balance numeric not null);
  select evsource.create_projection('balances', mode => 'async', if_exists => 'keep', query => $$
      insert into balances as b
          select stream, sum((data->>'amount')::numeric) from new_events group by stream
      on conflict (account) do update set balance = b.balance + excluded.balance $$);
  create table if not exists letters (n bigserial, account text, version bigint, type text, writer text);
  select evsource.create_subscription('letters', categories => '{account}', partitions => 4, if_exists => 'keep')`;

// Returns the position of the event: a bigint, which pg gives as a string.
async function append(db, stream, type, data, expectedVersion = null) {
  const { rows } = await db.query(
    'select position from evsource.append($1, $2, $3, expected_version => $4)',
    [stream, type, data, expectedVersion]);
  return rows[0].position;
}

function deposit(db, account, amount) {
  return append(db, account, 'Deposited', { amount });
}

// Load, decide, append; whoever was faster is no reason to give up.
async function withdraw(db, account, amount, attempts = 10) {
  for (let attempt = 0; attempt < attempts; attempt++) {
    const { rows: [{ version, balance }] } = await db.query(
      `select coalesce(max(version), 0) as version, coalesce(sum((data->>'amount')::numeric), 0) as balance
       from evsource.read_stream($1)`, [account]);
    if (balance < amount) throw new RangeError(`${account} has ${balance}`);
    try {
      return await append(db, account, 'Withdrawn', { amount: -amount }, version);
    } catch (error) {
      if (error.code !== WRONG_VERSION) throw error;
    }
  }
  throw new Error(`${account} has moved on ${attempts} times`);
}

// What the read model says once it has our own event.
async function balance(db, account, position) {
  await db.query("select evsource.wait_for('balances', $1, '10s')", [position]);
  const { rows } = await db.query('select balance from balances where account = $1', [account]);
  return rows[0].balance;
}

// One consumer of a group: they divide the accounts, each account's events come in order.
async function writeLetters(db, name) {
  for (;;) {
    const { rows: events } = await db.query(
      `select stream, version, type, receipt
       from evsource.fetch_events('letters', consumer => $1, wait => '5s')`, [name]);
    if (events.length === 0) continue;
    let receipt;
    try {
      await db.query('begin'); // the letters and their receipt, or neither
      for (const event of events) {
        receipt = event.receipt;
        await db.query('insert into letters (account, version, type, writer) values ($1, $2, $3, $4)',
          [event.stream, event.version, event.type, name]);
      }
      await db.query('select evsource.ack($1, required => true)', [receipt]);
      await db.query('commit');
    } catch (error) {
      await db.query('rollback');
      if (error.code !== LEASE_LOST) { // we were too slow, and another one writes them
        await db.query('select evsource.nack($1, $2)', [receipt, error.message]);
      }
    }
  }
}

async function listen(db) {
  db.on('notification', ({ channel, payload }) => console.log(channel, payload));
  await db.query('listen evsource_events');
  await db.query('listen evsource_projection');
  console.log('listening');
  await new Promise((_, reject) => db.on('error', reject));
}

const [command, account, amount] = process.argv.slice(2);
const db = new pg.Client();
await db.connect();
try {
  await db.query(SETUP); // several statements in one query are one transaction
  if (command === 'listen') {
    await listen(db);
  } else if (command === 'letters') {
    await writeLetters(db, account);
  } else {
    const position = await { deposit, withdraw }[command](db, account, Number(amount));
    console.log(await balance(db, account, position));
  }
} finally {
  await db.end();
}
