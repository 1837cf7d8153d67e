// Loaded into Omniboard 2.16.1 before its own code (node -r); Omniboard itself stays as it is.
//
// 1. Omniboard has no login by default and can delete runs, yet it listens on every network interface.
//    Here it listens on OMNIBOARD_HOST, which is the loopback interface unless set.
// 2. A metric column asks for every metric of every run, and joins it by an expression that cannot use an index: the
//    time grows with the square of the number of runs. Here only the metrics asked for are joined, by their _id.
'use strict';

const Module = require('module');
const net = require('net');

const HOST = process.env.OMNIBOARD_HOST || '127.0.0.1';

function isPort(value) {
  return typeof value === 'number' || /^\d+$/.test(String(value));
}

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
  if (isPort(first) && typeof rest[0] !== 'string') {
    return listen.call(this, Number(first), HOST, ...rest);
  }
  return listen.call(this, first, ...rest);
};

// The names of the metrics that a stage of Omniboard's metric columns looks up; null for any other stage.
function metricNames(stage) {
  const lookup = stage && stage.$lookup;
  if (!lookup || !lookup.from || !lookup.pipeline || !lookup.let || !lookup.let.metric_id) {
    return null;
  }
  const match = lookup.pipeline[0] && lookup.pipeline[0].$match;
  const conditions = (match && match.$expr && match.$expr.$and) || [];
  const named = conditions.find((condition) => condition.$in && Array.isArray(condition.$in[1]));
  return named ? named.$in[1] : null;
}

// Keeps of info.metrics only the metrics called `names`; stands before the stage that makes a row of each.
function onlyNamed(names) {
  const wanted = { $in: ['$$metric.name', names] };
  const metrics = { $filter: { input: { $ifNull: ['$info.metrics', []] }, as: 'metric', cond: wanted } };
  return { $addFields: { 'info.metrics': metrics } };
}

function cheaper(pipeline) {
  if (!Array.isArray(pipeline)) {
    return pipeline;
  }
  const stages = [];
  for (const stage of pipeline) {
    const names = metricNames(stage);
    if (!names) {
      stages.push(stage);
      continue;
    }
    const unwind = stages.map((s) => Boolean(s.$unwind && s.$unwind.path === '$info.metrics')).lastIndexOf(true);
    if (unwind >= 0) {
      stages.splice(unwind, 0, onlyNamed(names));
    }
    const join = { from: stage.$lookup.from, localField: 'metricId', foreignField: '_id', as: stage.$lookup.as };
    stages.push({ $addFields: { metricId: { $toObjectId: '$info.metrics.id' } } });
    stages.push({ $lookup: join }, { $project: { metricId: 0 } });
  }
  return stages;
}

const patched = new WeakSet();
const load = Module._load;
Module._load = function (request, ...rest) {
  const loaded = load.call(this, request, ...rest);
  if (request === 'mongodb' && loaded && loaded.Collection && !patched.has(loaded.Collection)) {
    patched.add(loaded.Collection);
    const aggregate = loaded.Collection.prototype.aggregate;
    loaded.Collection.prototype.aggregate = function (pipeline, ...options) {
      return aggregate.call(this, cheaper(pipeline), ...options);
    };
  }
  return loaded;
};
