# Omniboard 2.16.1 on a current Node; its own published image is built on one that is no longer maintained.
FROM node:20.20.2-bookworm-slim
WORKDIR /omniboard
RUN npm install --no-audit --no-fund omniboard@2.16.1
COPY omniboard_preload.js .
# Inside the container every interface is the container's own; compose.yaml publishes the port on loopback only.
ENV OMNIBOARD_HOST=0.0.0.0 PORT=9000 NODE_OPTIONS="-r /omniboard/omniboard_preload.js"
# node, the image's own user.
USER 1000:1000
EXPOSE 9000
ENTRYPOINT ["node", "node_modules/.bin/omniboard"]
